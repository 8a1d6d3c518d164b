"""Follows one task for one reader: the newest state, and what was recorded since the reader took the last one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import structlog
from warmlane.admission.v1.admission_service_pb2 import WatchTaskResponse
from warmlane.admission.v1.task_pb2 import Task, TaskEvent, TaskState

from runtime.errors import ErrorCode, ServiceError

_LOG = structlog.get_logger()

TERMINAL = frozenset({TaskState.TASK_STATE_DONE, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_CANCELLED})

Watch = Callable[[int], AsyncGenerator[WatchTaskResponse, None]]
"""Watches the task from behind this sequence on; raises ServiceError."""

# A task records some tens of events in its life. With so many that were not taken, the watch is read no further.
_MOST_EVENTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Times of an event stream, in seconds.

    Attributes:
        heartbeat_s: of silence, then a comment is sent: proxies close what is silent for long, most of them after 30 s or more.
        reach_s: for the first state, while admission is away; a restarted one serves again within 2 s.
        away_s: how long admission may be away once the stream has begun; then it ends, and its reader comes again.
        first_pause_s: before admission is asked again; twice as long each time.
        longest_pause_s: where that ends.
        write_s: for a reader to take what was written; one that stands still for longer is let go.
    """

    heartbeat_s: float = 15.0
    reach_s: float = 2.5
    away_s: float = 60.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0
    write_s: float = 60.0


class Time(Protocol):
    """How a stream lets time pass; tests bring their own."""

    def now_s(self) -> float:
        """Seconds since some start; only rises."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Lets so much time pass."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Whether the event is set before so much time has passed."""
        ...


class LoopTime:
    """The time of the event loop."""

    def now_s(self) -> float:
        """See Time."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See Time."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """See Time."""
        try:
            async with asyncio.timeout(seconds):
                return await event.wait()
        except TimeoutError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The task as it stands, what was recorded since the update before, oldest first, and the sequence to go on from."""

    task: Task
    events: tuple[TaskEvent, ...]
    last_sequence: int

    @property
    def is_last(self) -> bool:
        """The task has ended."""
        return self.task.state in TERMINAL


class Feed:
    """One task, watched for one reader, from `async with` on, which returns when the first state is there.

    However slow the reader is, one state and few events are kept: states that it did not take are replaced by newer ones, events are all
    kept until it takes them. When admission goes away, it is asked again from the last sequence on.

    Attributes:
        news: set when there is something to take, or the feed has ended; the reader clears it before it takes.
        failure: why the feed ended though the task has not: `task_not_found` when it was deleted.
    """

    def __init__(self, watch: Watch, *, pace: Pace, clock: Time) -> None:
        """Watches with `watch`."""
        self.news = asyncio.Event()
        self.failure: ServiceError | None = None
        self._watch = watch
        self._pace = pace
        self._clock = clock
        self._task: Task | None = None
        self._events: list[TaskEvent] = []
        self._last_sequence = 0
        self._is_begun = False
        self._room = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Feed:
        """Waits for the first state. Raises ServiceError when there is none."""
        self._following = asyncio.create_task(self._follow(), name="follow-task")
        try:
            await self.news.wait()
            if self._task is None:
                raise self.failure or _away()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the watch."""
        await self._close()

    def take(self) -> Update | None:
        """What is new; None when nothing is."""
        if self._task is None:
            return None
        update = Update(task=self._task, events=tuple(self._events), last_sequence=self._last_sequence)
        self._task = None
        self._events.clear()
        self._room.set()
        return update

    async def _close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        try:
            await self._follow_to_the_end()
        except ServiceError as error:
            self.failure = error
        except asyncio.CancelledError:
            # The reader's end, or that of the connection to admission when the bridge stops.
            self.failure = _away()
            raise
        except Exception:
            # A bug. The reader is told nothing false: its stream ends, and it comes again.
            _LOG.exception("event_feed_failed")
            self.failure = ServiceError(code=ErrorCode.INTERNAL, message="The task could not be watched.")
        finally:
            self.news.set()

    async def _follow_to_the_end(self) -> None:
        """Returns when the task has ended; raises ServiceError when it cannot be watched any more."""
        away_since_s: float | None = None
        pause_s = self._pace.first_pause_s
        while True:
            try:
                async with aclosing(self._watch(self._last_sequence)) as changes:
                    async for change in changes:
                        away_since_s, pause_s = None, self._pace.first_pause_s
                        await self._keep(change)
                        if change.task.state in TERMINAL:
                            return
                # It ends so when the task was deleted; the next watch then says that there is none.
            except ServiceError as error:
                if error.code == ErrorCode.STREAM_RECYCLED:
                    continue
                now_s = self._clock.now_s()
                away_since_s = now_s if away_since_s is None else away_since_s
                if not self._may_come_back(error, now_s + pause_s - away_since_s):
                    raise
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pace.longest_pause_s)

    def _may_come_back(self, error: ServiceError, away_s: float) -> bool:
        if self._is_begun:
            # Whatever it is, the task is accepted and goes on: only that it is gone is certain.
            return error.code != ErrorCode.TASK_NOT_FOUND and away_s <= self._pace.away_s
        return error.code == ErrorCode.SERVICE_UNAVAILABLE and away_s <= self._pace.reach_s

    async def _keep(self, change: WatchTaskResponse) -> None:
        while len(self._events) >= _MOST_EVENTS:
            self._room.clear()
            await self._room.wait()
        self._is_begun = True
        self._task = change.task
        self._events += change.events
        self._last_sequence = max(self._last_sequence, change.last_sequence)
        self.news.set()


def _away() -> ServiceError:
    return ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="The task cannot be watched now.", retry_after_s=1.0)
