"""Calls that anyone may make, of health and reflection: few of them at a time, and none that waits for its caller for long.

They ask for no token, so whoever reaches the port may make any number of them; each costs some tens of KiB for as long as it is open, and
nothing but its caller ends a watch, or a call whose request never comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, cast

import grpc

from runtime.errors import ErrorCode, ServiceError
from runtime.rpc_errors import RpcContext, abort

MOST_SINGLE = 4096
"""Single calls at a time; probes never wait for one another."""
MOST_STREAMS = 64
"""Watches of health, and streams of reflection."""

_REQUEST_S = 10.0
# Names of services; reflection asks for names of files and symbols.
_MAX_REQUEST_BYTES = 4096

_FULL = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Too many calls of this kind are open.", retry_after_s=5.0)
_LATE = ServiceError(code=ErrorCode.VALIDATION_ERROR, message=f"No request came for {_REQUEST_S:g} s.")
_LARGE = ServiceError(code=ErrorCode.VALIDATION_ERROR, message=f"A request has at most {_MAX_REQUEST_BYTES} bytes.")


class _Request(Protocol):
    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


class _Context(RpcContext, Protocol):
    async def write(self, message: object) -> None: ...


class OpenCalls:
    """The open ones of one server. Belongs to its event loop."""

    def __init__(self, *, request_s: float = _REQUEST_S, most_single: int = MOST_SINGLE, most_streams: int = MOST_STREAMS) -> None:
        """Waits for each request of a caller for so long."""
        self._request_s = request_s
        self._room = {False: most_single, True: most_streams}

    def call(self, handler: grpc.RpcMethodHandler[object, object]) -> Callable[[AsyncIterator[_Request], _Context], Awaitable[None]]:
        """The method within these limits, as one that reads and writes streams: a caller of whatever kind of method understands it."""
        is_stream = handler.response_streaming

        async def call(requests: AsyncIterator[_Request], context: _Context) -> None:
            if not self._room[is_stream]:
                await abort(context, _FULL)
            self._room[is_stream] -= 1
            try:
                await _answer(handler, self._timely(requests), context)
            except ServiceError as error:
                await abort(context, error)
            finally:
                self._room[is_stream] += 1

        return call

    async def _timely(self, requests: AsyncIterator[_Request]) -> AsyncIterator[_Request]:
        while True:
            try:
                async with asyncio.timeout(self._request_s):
                    request = await anext(requests, None)
            except TimeoutError:
                raise _LATE from None
            if request is None:
                return
            if request.ByteSize() > _MAX_REQUEST_BYTES:
                raise _LARGE
            yield request


async def _answer(handler: grpc.RpcMethodHandler[object, object], requests: AsyncIterator[_Request], context: _Context) -> None:
    if handler.request_streaming:
        stream = cast("Callable[[AsyncIterator[_Request], _Context], AsyncIterator[object]]", handler.stream_stream)
        async for answer in stream(requests, context):
            await context.write(answer)
        return
    request = await anext(requests, None)
    if request is None:
        raise _LATE
    if handler.response_streaming:
        # Health's writes by itself, and returns never.
        await cast("Callable[[_Request, _Context], Awaitable[None]]", handler.unary_stream)(request, context)
    else:
        await context.write(await cast("Callable[[_Request, _Context], Awaitable[object]]", handler.unary_unary)(request, context))
