"""What admission sees, looked at once a second while anybody watches: one look for all consoles of this bridge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
from warmlane.admission.v1.task_pb2 import Task

from http_bridge.console.problems import problems
from http_bridge.convert import Links, status_reply
from http_bridge.diagnostics import diagnostics
from http_bridge.schemas_console import ConsoleAway, ConsoleSnapshot, ConsoleTask
from runtime.errors import ServiceError

if TYPE_CHECKING:
    from warmlane.admission.v1 import operator_service_pb2 as operator

    from http_bridge.event_feed import Time

_LOG = structlog.get_logger()

LOOK_S = 1.0
"""Between two looks."""

SHOWN_TASKS = 25

# They change with every look though nothing happened; a console counts on by itself.
_RUNNING: Any = {
    "taken_at": True,
    "lanes": {"__all__": {"last_report_seconds", "fallback_seconds"}},
    "queues": {"__all__": {"fallback_seconds"}},
}
# A lane in contact reports at least every 5 s; older than this is news.
_FRESH_REPORT_S = 10.0
# So that what is not told because it runs on by itself cannot run away.
_TOLD_AT_LEAST_S = 15.0

State = ConsoleSnapshot | ConsoleAway
Look = Callable[[], Awaitable[ConsoleSnapshot]]


def console_snapshot(snapshot: operator.GetSnapshotResponse, tasks: Sequence[Task]) -> ConsoleSnapshot:
    """What a console shows of a snapshot and of the newest tasks."""
    found = diagnostics(snapshot)
    return ConsoleSnapshot(**dict(found), problems=problems(found), tasks=[_task(task) for task in tasks])


def _task(task: Task) -> ConsoleTask:
    status = status_reply(task, Links())
    return ConsoleTask(
        task_id=task.task_id,
        model=task.request.model,
        mode=task.request.mode,
        status=status.status,
        stage=status.stage,
        stage_detail=status.stage_detail,
        progress=status.progress,
        lane=task.lane_id or None,
        lane_mode=status.lane_mode,
        fallback_reason=status.fallback_reason,
        attempt=status.attempt,
        error_code=status.error_code,
        queue_position=status.queue_position,
        eta_seconds=status.eta_seconds,
        created_at=status.created_at,
        updated_at=status.updated_at,
    )


class Overview:
    """The newest state, for all who watch. Nobody watches: nothing is asked.

    Attributes:
        state: as told last; None before the first look.
        look_s: between two looks.
    """

    def __init__(self, look: Look, clock: Time) -> None:
        """Looks with `look`, which may raise ServiceError."""
        self._look = look
        self._clock = clock
        self._watchers: dict[asyncio.Event, None] = {}
        self._looking: asyncio.Task[None] | None = None
        self.state: State | None = None
        self.look_s = LOOK_S

    @asynccontextmanager
    async def watched(self, news: asyncio.Event) -> AsyncIterator[None]:
        """While this lasts, the event is set when there is a new state."""
        self._watchers[news] = None
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on(), name="console-look")
        elif self.state is not None:
            news.set()
        try:
            yield
        finally:
            del self._watchers[news]
            if not self._watchers and self._looking is not None:
                looking, self._looking = self._looking, None
                # What the next watcher sees must not be of before.
                self.state = None
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)

    async def _look_on(self) -> None:
        told, told_s = "", self._clock.now_s()
        while True:
            state = await self._seen()
            said, now_s = _lasting(state), self._clock.now_s()
            if said != told or now_s - told_s >= _TOLD_AT_LEAST_S:
                told, told_s = said, now_s
                self.state = state
                for news in self._watchers:
                    news.set()
            await self._clock.sleep(self.look_s)

    async def _seen(self) -> State:
        try:
            return await self._look()
        except ServiceError as error:
            return ConsoleAway(reason=error.message)
        except Exception:
            # A bug; the console must not show what is long past as if it were now.
            _LOG.exception("console_look_failed")
            return ConsoleAway(reason="The bridge failed to read the state; its log says why.")


def _lasting(state: State) -> str:
    """What of the state is news, to compare with what was told."""
    if isinstance(state, ConsoleAway):
        return f"away {state.reason}"
    silent = [lane.lane for lane in state.lanes if not _is_fresh(lane.last_report_seconds)]
    return f"{silent} {state.model_dump_json(exclude=_RUNNING)}"


def _is_fresh(age_s: float | None) -> bool:
    return age_s is not None and age_s < _FRESH_REPORT_S
