"""Reads request bodies with limits of size and time that hold while the bytes come in."""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import ClientDisconnect, Request

from http_bridge.errors import HttpError

_LOG = structlog.get_logger()

# A refused body is read on for a little, and thrown away: a client that is still writing when the connection closes never sees the reply.
_DRAIN_S = 10.0
_DRAIN_FACTOR = 4


async def read_body(request: Request, *, limit_bytes: int, timeout_s: float) -> bytearray:
    """The whole body.

    Raises:
        HttpError: 413 it is over the limit; 408 it took too long; 499 the client left meanwhile.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        # A client that asks first (Expect) has sent nothing yet and is told at once.
        await _refuse_size(request, limit_bytes, drain="expect" not in request.headers)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit_bytes:
                    body.clear()
                    await _refuse_size(request, limit_bytes, drain=True)
    except TimeoutError:
        headers = {"Connection": "close"}
        raise HttpError("request_timeout", f"The body did not arrive within {timeout_s:g} s.", headers=headers) from None
    except ClientDisconnect:
        raise HttpError("client_gone", "The client left before its request was complete.") from None
    return body


async def _refuse_size(request: Request, limit_bytes: int, *, drain: bool) -> None:
    if drain:
        await _drain(request, limit_bytes * _DRAIN_FACTOR)
    raise HttpError(
        "payload_too_large",
        f"The body is over the limit of {limit_bytes / 1024 / 1024:g} MiB.",
        metadata={"max_body_bytes": limit_bytes},
        headers={"Connection": "close"},
    )


async def _drain(request: Request, most_bytes: int) -> None:
    thrown_away = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            while thrown_away < most_bytes:
                # Straight from the server: the stream of the request may be in use by the caller.
                message = await request.receive()
                thrown_away += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        _LOG.info("oversized_body_abandoned", thrown_away_bytes=thrown_away)
