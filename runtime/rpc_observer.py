"""Who counts the calls of a gRPC server, and how a handler tells."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import grpc

Ended = Callable[[grpc.StatusCode, float], None]
"""Is told of a call that ended: its status, and the seconds that it took."""


class RpcObserver(Protocol):
    """Counts calls. On the way of every call: quick, and never raises."""

    def method(self, name: str) -> Ended:
        """What is told of the calls of this method; asked for once."""
        ...


class AbortedContext(Protocol):
    """The part of a handler's context that says how a call was aborted."""

    def code(self) -> grpc.StatusCode | None:
        """The status that it was aborted with; None: it was not."""
        ...


def observed_call(handler: Callable[..., Awaitable[object]], ended: Ended) -> Callable[..., Awaitable[object]]:
    """The handler of a single answer, with the end of each call told."""

    async def call(request: object, context: AbortedContext) -> object:
        started_s = time.perf_counter()
        try:
            answer = await handler(request, context)
        except BaseException:
            ended(_status(context), time.perf_counter() - started_s)
            raise
        ended(grpc.StatusCode.OK, time.perf_counter() - started_s)
        return answer

    return call


def observed_stream(handler: Callable[..., AsyncIterator[object]], ended: Ended) -> Callable[..., AsyncIterator[object]]:
    """The handler of many answers, with the end of each call told."""

    async def stream(request: object, context: AbortedContext) -> AsyncIterator[object]:
        started_s = time.perf_counter()
        answers = handler(request, context)
        try:
            async for answer in answers:
                yield answer
        except BaseException:
            ended(_status(context), time.perf_counter() - started_s)
            raise
        else:
            ended(grpc.StatusCode.OK, time.perf_counter() - started_s)
        finally:
            await answers.aclose()  # type: ignore[attr-defined]

    return stream


def _status(context: AbortedContext) -> grpc.StatusCode:
    """Of a call whose handler was left by an exception: without an abort, because the caller went away."""
    return context.code() or grpc.StatusCode.CANCELLED
