"""Reads request bodies with limits of size, time and number that hold while the bytes come in."""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import Request

from http_bridge.errors import HttpError
from http_bridge.fair_places import FairPlaces
from runtime.errors import ErrorCode

_LOG = structlog.get_logger()

# A refused body is read on for a little, and thrown away: a client that is still writing when the connection closes never sees the reply.
_DRAIN_S = 10.0
_DRAIN_FACTOR = 4

# Up to here a body never waits: it is one without pictures, or with small ones.
_LARGE_BYTES = 1024 * 1024
# Over so long a large body must come at the least rate: a line that stalls for a moment does no harm.
_WINDOW_S = 10.0
# Longer than a body of the largest size takes over a fast connection; a client that waits for longer had better come again.
_WAIT_S = 20.0


class LargeBodies:
    """Places for bodies over 1 MiB: together they bound the memory of requests that are read or taken in."""

    def __init__(self, at_once: int, *, wait_s: float = _WAIT_S) -> None:
        """This many places; who waits for one for `wait_s` seconds is refused."""
        self._places = FairPlaces(at_once, share=(at_once + 1) // 2)
        self._wait_s = wait_s

    def room(self, name: str = "") -> Room:
        """For one body; a context, at whose end its place, if it came to need one, is free. Bodies of one name get half of the places at
        most: whoever sends slowly on purpose must not keep everyone out; without a name, all."""
        return Room(self._places, name, self._wait_s)


class Room:
    """The place of one body, taken when the body turns out to be large. Only `LargeBodies` makes it."""

    def __init__(self, places: FairPlaces, name: str, wait_s: float) -> None:
        self._places = places
        self._name = name
        self._wait_s = wait_s
        self._is_held = False

    async def __aenter__(self) -> Room:
        return self

    async def __aexit__(self, *_failure: object) -> None:
        self.leave()

    @property
    def is_held(self) -> bool:
        """A place is taken: others may wait for it."""
        return self._is_held

    async def ensure(self, size_bytes: int) -> None:
        """Returns when a body of so many bytes may be read; nothing is read meanwhile, so that the connection holds the client back.

        Raises:
            HttpError: 503, no place became free in time.
        """
        if self._is_held or size_bytes <= _LARGE_BYTES:
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._places.take(self._name)
        except TimeoutError:
            detail = "Too many large requests are being read."
            raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, detail, headers={"Connection": "close"}) from None
        self._is_held = True

    def leave(self) -> None:
        """Gives the place back."""
        if self._is_held:
            self._is_held = False
            self._places.give_back(self._name)


class Pace:
    """How fast a body must come while it holds a place: in every window so much, or it is given up."""

    def __init__(self, rate_bytes_s: float, *, window_s: float = _WINDOW_S) -> None:
        """So many bytes per second on average over each window."""
        self._window_s = window_s
        self._window_bytes = rate_bytes_s * window_s
        self._began: tuple[float, int] | None = None

    def deadline_s(self, now_s: float, received_bytes: int) -> float:
        """Until when the next piece must be there, with this many bytes received by now. The first call begins the first window."""
        began_s, began_bytes = self._began or (now_s, received_bytes)
        if received_bytes - began_bytes >= self._window_bytes:
            began_s, began_bytes = now_s, received_bytes
        self._began = began_s, began_bytes
        return began_s + self._window_s


async def read_body(request: Request, room: Room, *, limit_bytes: int, timeout_s: float, pace: Pace | None = None) -> bytearray:
    """The whole body, in a room that must be kept while the body or what is made of it is in memory. `pace` holds for large bodies.

    Raises:
        HttpError: 413 it is over the limit; 408 it took too long; 499 the client left meanwhile; 503 there is no room.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > min(limit_bytes, _LARGE_BYTES):
        # A client that asks first (Expect) has sent nothing yet and is told at once.
        waits_to_send = "expect" in request.headers
        if int(declared) > limit_bytes:
            await _refuse_size(request, limit_bytes, drain=not waits_to_send)
        await _ensure(room, int(declared), request, limit_bytes, drain=not waits_to_send)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s) as patience:
            last_s = patience.when() or 0.0
            _keep_pace(patience, last_s, pace, room, 0)
            is_whole = False
            while not is_whole:
                # Straight from the server: most bodies are one piece, and nobody reads them twice.
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise HttpError("client_gone", "The client left before its request was complete.")
                body += message.get("body", b"")
                is_whole = not message.get("more_body", False)
                if room.is_held or len(body) > min(limit_bytes, _LARGE_BYTES):
                    await _make_room(request, room, body, limit_bytes)
                    _keep_pace(patience, last_s, pace, room, len(body))
    except TimeoutError:
        headers = {"Connection": "close"}
        detail = f"The body did not arrive within {timeout_s:g} s, or too slowly for its size."
        raise HttpError("request_timeout", detail, headers=headers) from None
    return body


async def _make_room(request: Request, room: Room, body: bytearray, limit_bytes: int) -> None:
    """For a body that turned out to be large."""
    if len(body) > limit_bytes:
        body.clear()
        await _refuse_size(request, limit_bytes, drain=True)
    await _ensure(room, len(body), request, limit_bytes, drain=True)


def _keep_pace(patience: asyncio.Timeout, last_s: float, pace: Pace | None, room: Room, received_bytes: int) -> None:
    if pace is not None and room.is_held:
        patience.reschedule(min(last_s, pace.deadline_s(asyncio.get_running_loop().time(), received_bytes)))


async def _ensure(room: Room, size_bytes: int, request: Request, limit_bytes: int, *, drain: bool) -> None:
    try:
        await room.ensure(size_bytes)
    except HttpError:
        if drain:
            await _drain(request, limit_bytes)
        raise


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
