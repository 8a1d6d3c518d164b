"""The consoles that are open: their replies, and how each ends with its session, its server or its time."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastapi.sse import EventSourceResponse, format_sse_event

from http_bridge.console.overview import Overview, State
from http_bridge.console.tail import Tail
from http_bridge.event_format import HEARTBEAT, RETRY_MS
from http_bridge.event_stream import HEADERS, EventStreams, Reader, send_all, until_gone
from http_bridge.schemas_console import ConsoleAway

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from http_bridge.operator_client import OperatorClient

LIFE_S = 600.0
"""Then the console comes again by itself, and is let in again, or not any more: another bridge may have ended its session."""

# A console whose time is over comes again at once; the first snapshot says that later ones need not hurry so.
_AGAIN_MS = 200

MOST_CONSOLES = 64
"""Of one bridge: all admins together."""

_OWNER = "admins"


class Consoles:
    """Which streams belong to which admin session."""

    def __init__(self, streams: EventStreams, overview: Overview, *, life_s: float = LIFE_S) -> None:
        """Places are those of `streams`, which are ended when the server stops."""
        self.streams = streams
        self.overview = overview
        self.life_s = life_s
        self._of_session: defaultdict[bytes, set[Reader]] = defaultdict(set)

    def end_session(self, token: str) -> None:
        """The session was ended: nothing more is told to its consoles."""
        for reader in tuple(self._of_session.get(_name(token), ())):
            reader.leave()

    @contextmanager
    def place(self, token: str) -> Iterator[Reader]:
        """A place for one console; `token` of its session, empty for one that came with the key. Raises HttpError when there is none."""
        with self.streams.place(_OWNER) as reader:
            name = _name(token)
            self._of_session[name].add(reader)
            try:
                yield reader
            finally:
                self._of_session[name].discard(reader)
                if not self._of_session[name]:
                    del self._of_session[name]


def _name(token: str) -> bytes:
    # No token is kept longer than its request.
    return hashlib.sha256(token.encode()).digest() if token else b""


class ConsoleReply(EventSourceResponse):
    """The reply of GET /console/events. Its place and its tasks live as long as its sending."""

    def __init__(self, consoles: Consoles, operator: OperatorClient, *, token: str, after_sequence: int) -> None:
        """For a console that was let in, which knows the events up to this sequence."""
        super().__init__(iter(()), headers=HEADERS)
        self._consoles = consoles
        self._operator = operator
        self._token = token
        self._after = after_sequence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until its time is over, or nobody is there to send to."""
        with self._consoles.place(self._token) as reader:
            leaving = asyncio.create_task(until_gone(receive, reader), name="watch-client")
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                is_whole = await send_all(self._chunks(reader), send, within_s=self._consoles.streams.pace.write_s)
            finally:
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
        if is_whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, reader: Reader) -> AsyncGenerator[bytes, None]:
        overview, streams = self._consoles.overview, self._consoles.streams
        news, clock = asyncio.Event(), streams.clock
        reader.wakes(news)
        ends_s = clock.now_s() + self._consoles.life_s
        told: State | None = None
        tail = Tail(self._operator, self._after, news, pace=streams.pace, clock=clock)
        async with overview.watched(news), tail:
            while not reader.has_left and (left_s := ends_s - clock.now_s()) > 0:
                news.clear()
                state, piece = overview.state, tail.take()
                if state is not None and state is not told:
                    retry_ms, told = RETRY_MS if told is None else None, state
                    name = "away" if isinstance(state, ConsoleAway) else "snapshot"
                    yield format_sse_event(event=name, data_str=state.model_dump_json(), retry=retry_ms)
                if piece is not None:
                    yield format_sse_event(event="events", data_str=piece.events.model_dump_json(), id=str(piece.last_sequence))
                elif not news.is_set() and not await clock.wait(news, min(streams.pace.heartbeat_s, left_s)):
                    yield HEARTBEAT
            if not reader.has_left:
                yield format_sse_event(comment="come again", retry=_AGAIN_MS)
