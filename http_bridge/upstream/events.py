"""GET /events of an image task: the changes that polling its status finds, as the same server-sent events that a video has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog
from fastapi.sse import EventSourceResponse, format_sse_event

from http_bridge.addresses import client_subscriber
from http_bridge.errors import HttpError
from http_bridge.event_format import END_SUFFIX, HEARTBEAT, RETRY_MS
from http_bridge.event_stream import HEADERS, send_all, until_gone
from http_bridge.schemas import Diagnostics, StatusReply, StreamEnd
from http_bridge.upstream.watch import ENDED
from runtime.errors import ErrorCode, ServiceError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from http_bridge.event_stream import EventStreams, Reader
    from http_bridge.schemas import EndReason

_LOG = structlog.get_logger()


class ImageEventsReply(EventSourceResponse):
    """Its place, its polling and its tasks live as long as its sending. Before the first byte it raises what the first look raises."""

    def __init__(
        self, streams: EventStreams, changes: AsyncGenerator[StatusReply, None], *, task_id: str, owner: str, after_sequence: int
    ) -> None:
        """For this caller. The upstream has no numbers of events: ours go on from the last one that the client saw."""
        super().__init__(iter(()), headers=HEADERS)
        self._streams = streams
        self._changes = changes
        self._task_id = task_id
        self._owner = owner
        self._sequence = after_sequence
        self._told: StatusReply | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until there is nothing more to send, or nobody to send it to."""
        with self._streams.place(self._owner, client_subscriber(scope)) as reader:
            newest = _Newest()
            reader.wakes(newest.news)
            tasks = (
                asyncio.create_task(until_gone(receive, reader), name="watch-client"),
                asyncio.create_task(newest.follow(self._changes), name="poll-image"),
            )
            try:
                await newest.news.wait()
                if newest.state is None and newest.failure is not None:
                    raise newest.failure
                if reader.has_left and newest.state is None:
                    # It left while it waited for the first look; where the server stops, it is told so.
                    raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The task cannot be watched now.")
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                is_whole = await send_all(self._chunks(newest, reader), send, within_s=self._streams.pace.write_s)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if is_whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, newest: _Newest, reader: Reader) -> AsyncGenerator[bytes, None]:
        while not reader.has_left:
            newest.news.clear()
            state = newest.take()
            if state is not None:
                yield self._status(state)
                if state.status in ENDED:
                    yield self._end("done" if state.status == "done" else "failed")
                    return
            elif newest.failure is not None:
                if newest.failure.code == ErrorCode.TASK_NOT_FOUND:
                    yield self._end("deleted")
                return
            elif not await self._streams.clock.wait(newest.news, self._streams.pace.heartbeat_s):
                yield HEARTBEAT

    def _status(self, state: StatusReply) -> bytes:
        self._sequence += 1
        told, self._told = self._told, state
        shown = state.model_copy(update={"diagnostics": _new_diagnostics(told, state)})
        retry = RETRY_MS if told is None else None
        return format_sse_event(event="status", data_str=shown.model_dump_json(), id=str(self._sequence), retry=retry)

    def _end(self, reason: EndReason) -> bytes:
        data = StreamEnd(task_id=self._task_id, reason=reason).model_dump_json()
        return format_sse_event(event="end", data_str=data, id=f"{self._sequence}{END_SUFFIX}")


class _Newest:
    """The newest state that was not taken yet: changes that come faster than the client reads are one."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.state: StatusReply | None = None
        self.failure: HttpError | ServiceError | None = None

    def take(self) -> StatusReply | None:
        state, self.state = self.state, None
        return state

    async def follow(self, changes: AsyncGenerator[StatusReply, None]) -> None:
        try:
            async with aclosing(changes):
                async for change in changes:
                    self.state = change
                    self.news.set()
        except (HttpError, ServiceError) as error:
            self.failure = error
        except Exception:
            # A bug. The reader is told nothing false: its stream ends, and it comes again.
            _LOG.exception("image_events_failed")
        finally:
            if self.failure is None:
                # Nobody waits for more: the last state was terminal, the reader left, or the log says why.
                self.failure = HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The task cannot be watched now.")
            self.news.set()


def _new_diagnostics(told: StatusReply | None, state: StatusReply) -> Diagnostics | None:
    """What was recorded since the state before."""
    if state.diagnostics is None or told is None or told.diagnostics is None:
        return state.diagnostics
    known = told.diagnostics.events
    events = [event for event in state.diagnostics.events if event not in known]
    return Diagnostics(events=events) if events else None
