"""Event streams: who may open how many, and one reply that sends a task's changes until its end, its reader's or the server's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from fastapi.sse import EventSourceResponse
from warmlane.admission.v1.task_pb2 import TaskState

from http_bridge.addresses import client_subscriber
from http_bridge.errors import HttpError
from http_bridge.event_feed import Feed, LoopTime, Pace, Time, Watch
from http_bridge.event_format import HEARTBEAT, Script
from runtime.errors import ErrorCode

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

HEADERS = {
    "Cache-Control": "no-store",
    # nginx would collect the events before it passes them on.
    "X-Accel-Buffering": "no",
}
"""Of every event stream."""
_RETRY_AFTER_S = 30.0


class EventStreams:
    """The open streams of this bridge: bounded in number, ended together when it stops."""

    def __init__(
        self, *, most: int, most_of_session: int, most_of_address: int | None = None, pace: Pace | None = None, clock: Time | None = None
    ) -> None:
        """At most so many at a time, of one session, and of all sessions of one address: there are new ones for the asking."""
        self.pace = pace or Pace()
        self.clock = clock or LoopTime()
        self._most = most
        self._most_of_session = most_of_session
        self._most_of_address = most if most_of_address is None else most_of_address
        self._open: dict[Reader, None] = {}
        self._of: Counter[str] = Counter()
        self._are_over = False

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    @contextmanager
    def place(self, owner: str, address: str = "") -> Iterator[Reader]:
        """A place for one stream of this caller.

        Raises:
            HttpError: 503, there is none, or the server stops; 429, the session, or its address, has all of its places.
        """
        if self._are_over:
            raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The server is stopping.")
        if len(self._open) >= self._most:
            raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, "Too many event streams are open.", retry_after_s=_RETRY_AFTER_S)
        # Behind the key there may be a server with many users.
        names = [] if owner == "key" else [(owner, self._most_of_session, "session")]
        if names and address:
            names.append((address, self._most_of_address, "address"))
        for name, most, kind in names:
            if self._of[name] >= most:
                detail = f"This {kind} has {most} event streams open; close some."
                raise HttpError(ErrorCode.RATE_LIMITED, detail, metadata={"max_event_streams": most}, retry_after_s=_RETRY_AFTER_S)
        reader = Reader()
        self._open[reader] = None
        self._of.update(name for name, _, _ in names)
        try:
            yield reader
        finally:
            del self._open[reader]
            for name, _, _ in names:
                self._of[name] -= 1
                if not self._of[name]:
                    del self._of[name]

    @asynccontextmanager
    async def ended_by(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """While this lasts, the event ends every stream."""
        ending = asyncio.create_task(self._end_all(stopping), name="end-event-streams")
        try:
            yield
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    async def _end_all(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._are_over = True
        for reader in tuple(self._open):
            reader.leave()


class Reader:
    """Whether anyone still reads a stream."""

    def __init__(self) -> None:
        """Someone does."""
        self.has_left = False
        self._news: asyncio.Event | None = None

    def wakes(self, news: asyncio.Event) -> None:
        """Its leaving is told by this event too."""
        self._news = news
        if self.has_left:
            news.set()

    def leave(self) -> None:
        """The client is gone, or the server stops."""
        self.has_left = True
        if self._news is not None:
            self._news.set()


class EventStreamReply(EventSourceResponse):
    """The reply of GET /events. Its place, its watch and its tasks live as long as its sending.

    Before the first byte it raises what the contract's errors are made of: ServiceError, HttpError.
    """

    def __init__(self, streams: EventStreams, *, owner: str, watch: Watch, script: Script) -> None:
        """For this caller; what the watch gives is told by the script."""
        super().__init__(iter(()), headers=HEADERS)
        self._streams = streams
        self._owner = owner
        self._watch = watch
        self._script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until there is nothing more to send, or nobody to send it to."""
        with self._streams.place(self._owner, client_subscriber(scope)) as reader:
            leaving = asyncio.create_task(until_gone(receive, reader), name="watch-client")
            try:
                feed = Feed(self._watch, pace=self._streams.pace, clock=self._streams.clock)
                # Before it waits for the first state: who leaves meanwhile, or stops the server, ends that too.
                reader.wakes(feed.news)
                async with feed:
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    is_whole = await send_all(self._chunks(feed, reader), send, within_s=self._streams.pace.write_s)
            finally:
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
        if is_whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, feed: Feed, reader: Reader) -> AsyncGenerator[bytes, None]:
        while not reader.has_left:
            feed.news.clear()
            update = feed.take()
            if update is not None:
                if chunk := self._script.state(update):
                    yield chunk
                if update.is_last:
                    yield self._script.end("done" if update.task.state == TaskState.TASK_STATE_DONE else "failed")
                    return
            elif feed.failure is not None:
                if feed.failure.code == ErrorCode.TASK_NOT_FOUND:
                    yield self._script.end("deleted")
                return
            elif not await self._streams.clock.wait(feed.news, self._streams.pace.heartbeat_s):
                yield HEARTBEAT


async def send_all(chunks: AsyncGenerator[bytes, None], send: Send, *, within_s: float) -> bool:
    """Whether the reader kept up, with `within_s` for each chunk. One that did not cannot be told anything more; the server then closes its
    connection. The chunks have ended when this returns."""
    async with aclosing(chunks):
        async for chunk in chunks:
            try:
                async with asyncio.timeout(within_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                return False
    return True


async def until_gone(receive: Receive, reader: Reader) -> None:
    """Returns when the client left, and tells the reader so."""
    # A GET has no body; what comes from the server is the news that the client left.
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.leave()
