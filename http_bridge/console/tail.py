"""The events of one console: the newest ones at its start, then every one that is recorded, whatever admission does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import structlog
from warmlane.admission.v1.task_pb2 import TaskEvent

from http_bridge.convert import moment
from http_bridge.diagnostics import ADMISSION_EVENTS, LANE_EVENTS, MODEL_EVENTS, lane_memory
from http_bridge.schemas_console import ConsoleEvent, ConsoleEvents
from runtime.errors import ErrorCode, ServiceError

if TYPE_CHECKING:
    from http_bridge.event_feed import Pace, Time
    from http_bridge.operator_client import OperatorClient

_LOG = structlog.get_logger()

# Of lanes, models and admission: days of a quiet system, and enough for the timeline of a busy hour. Of everything: what just happened.
_NEWEST_OF_SYSTEM, _NEWEST_OF_ALL = 300, 100
# A console that was away for longer than so many events begins anew.
_MOST_MISSED = 2_000
# With so many that its reader did not take, the tail is read no further.
_MOST_WAITING = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Events for one message, and the sequence to go on from."""

    events: ConsoleEvents
    last_sequence: int


class Tail:
    """Follows from `async with` on. `news` is set when there is something to take."""

    def __init__(self, operator: OperatorClient, after_sequence: int, news: asyncio.Event, *, pace: Pace, clock: Time) -> None:
        """Goes on behind this sequence; 0: begins with the newest events."""
        self._operator = operator
        self._after = after_sequence
        self._news = news
        self._pace = pace
        self._clock = clock
        self._waiting: list[TaskEvent] = []
        self._is_reset = False
        self._has_news = False
        self._room = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Tail:
        """Begins."""
        self._following = asyncio.create_task(self._follow(), name="console-tail")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def take(self) -> Piece | None:
        """What is new; None when nothing is."""
        if not self._has_news:
            return None
        events = ConsoleEvents(reset=self._is_reset, events=[_console_event(event) for event in self._waiting])
        self._waiting.clear()
        self._is_reset = self._has_news = False
        self._room.set()
        return Piece(events=events, last_sequence=self._after)

    async def _follow(self) -> None:
        """Until it is cancelled. While admission is away it is asked again, as for a task's events."""
        pause_s = self._pace.first_pause_s
        has_begun = False
        while True:
            try:
                if not has_begun:
                    await self._begin()
                    has_begun = True
                async with aclosing(self._operator.follow_events(self._after)) as pages:
                    async for page in pages:
                        pause_s = self._pace.first_pause_s
                        await self._keep(page.events, page.last_sequence)
            except ServiceError as error:
                if error.code == ErrorCode.STREAM_RECYCLED:
                    continue
            except Exception:
                # A bug: the state goes on being shown, and the log says why events do not.
                _LOG.exception("console_tail_failed")
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pace.longest_pause_s)

    async def _begin(self) -> None:
        """Sends the newest events, unless the reader knows all but a few."""
        end = await self._operator.last_sequence()
        if 0 < self._after <= end and end - self._after <= _MOST_MISSED:
            return
        names = (*ADMISSION_EVENTS, *LANE_EVENTS, *MODEL_EVENTS)
        found = merged(
            await self._operator.newest_events(names, _NEWEST_OF_SYSTEM),
            await self._operator.newest_events((), _NEWEST_OF_ALL),
        )
        self._is_reset = True
        # What was recorded between the looks may be left out of the first: it comes again behind this sequence.
        self._after = end
        await self._keep([event for event in found if event.sequence <= end], end)

    async def _keep(self, events: Iterable[TaskEvent], last_sequence: int) -> None:
        while len(self._waiting) >= _MOST_WAITING:
            self._room.clear()
            await self._room.wait()
        before = len(self._waiting)
        self._waiting += events
        # A sequence that only moved on tells a console nothing, until something happens.
        self._after = max(self._after, last_sequence)
        if len(self._waiting) > before or self._is_reset:
            self._has_news = True
            self._news.set()


def merged(*lists: Sequence[TaskEvent]) -> list[TaskEvent]:
    """All of them, each once, oldest first."""
    by_sequence = {event.sequence: event for events in lists for event in events}
    return [by_sequence[sequence] for sequence in sorted(by_sequence)]


def _console_event(event: TaskEvent) -> ConsoleEvent:
    return ConsoleEvent(
        sequence=event.sequence,
        event_type=event.event_type,
        value=event.value,
        reason=event.reason,
        created_at=moment(event.created_at),
        lane=event.lane_id or None,
        model=event.model or None,
        task_id=event.task_id or None,
        attempt=event.attempt,
        memory=lane_memory(event.memory) if event.HasField("memory") else None,
    )
