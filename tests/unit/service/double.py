"""A controller that does what a test says, and keeps what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from admission.core.lanes import Availability, LaneSpec, Report, Wish
from admission.core.refusals import ModelLimits, SizeLimit
from admission.core.tasks import Event, LaneId, LaneMode, Model, Task, TaskId, TaskState
from admission.engine_types import (
    Accepted,
    CountersView,
    DegradedView,
    LaneView,
    LaneWish,
    QueueView,
    Snapshot,
    Submission,
    TaskChange,
    TaskView,
    UnknownLaneError,
    UnknownTaskError,
)
from admission.store.port import EventPage, EventQuery, TaskPage, TaskQuery
from runtime.rules.check import check_request
from runtime.rules.parameters import to_parameters

TASK_ID = TaskId("0123456789abcdef" * 2)
AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def a_task(state: TaskState = TaskState.QUEUED, **changes: object) -> Task:
    """A task of anisora; `changes` replace its fields."""
    fields: dict[str, object] = {
        "task_id": TASK_ID,
        "owner": "",
        "model": Model("anisora"),
        "mode": "t2v",
        "parameters": to_parameters(check_request({"model": "anisora", "prompt": "a lake", "seed": 7})),
        "tokens": 1,
        "state": state,
        "created_at": AT,
        "updated_at": AT,
    }
    return Task(**(fields | changes))  # type: ignore[arg-type]


def a_view(task: Task, queue_position: int | None = None, eta_s: float | None = None) -> TaskView:
    """The task as the engine shows it."""
    return TaskView(task=task, queue_position=queue_position, eta_s=eta_s)


def a_change(view: TaskView, *events: Event) -> TaskChange:
    """What a watcher is told."""
    return TaskChange(view=view, events=events, last_sequence=max((event.sequence for event in events), default=0))


def a_lane(**changes: object) -> LaneView:
    """A lane of anisora that was never heard of; `changes` replace its fields."""
    fields: dict[str, object] = {
        "spec": LaneSpec(lane_id=LaneId("lane-anisora"), mode=LaneMode.DEDICATED, models=(Model("anisora"),)),
        "availability": Availability.UNAVAILABLE,
        "warm": False,
        "resident_model": None,
        "work": None,
        "reason": "never seen",
        "last_report_age_s": None,
        "cold_starts": 0,
        "last_memory": None,
        "is_drained": False,
    }
    return LaneView(**(fields | changes))  # type: ignore[arg-type]


def a_queue(**changes: object) -> QueueView:
    """The queue of anisora, quiet; `changes` replace its fields."""
    fields: dict[str, object] = {
        "model": Model("anisora"),
        "depth": 3,
        "max_depth": 25,
        "served": False,
        "running": 1,
        "fallback_reason": None,
        "fallback_since": None,
        "is_fallback_manual": False,
        "quota_denied_until": None,
        "predicted_wait_s": None,
    }
    return QueueView(**(fields | changes))  # type: ignore[arg-type]


class LaneSessionDouble:
    """One stream: keeps reports, gives the wishes that the test puts in; an exception put in is raised."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.wishes: asyncio.Queue[LaneWish | Exception] = asyncio.Queue()
        self.refusal: Exception | None = None
        self.closed = asyncio.Event()

    async def report(self, report: Report) -> None:
        if self.refusal is not None:
            raise self.refusal
        await self.reports.put(report)

    async def next_wish(self) -> LaneWish:
        wish = await self.wishes.get()
        if isinstance(wish, Exception):
            raise wish
        return wish

    async def close(self) -> None:
        self.closed.set()


class LandingDouble:
    """Keeps what an import brings."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.task: Task | None = None

    def key(self, name: str) -> str:
        return f"results/x/1/{name}"

    async def write(self, name: str, chunk: bytes) -> None:
        self.files[name] = self.files.get(name, b"") + chunk

    async def commit(self, task: Task) -> None:
        self.task = task


class ControllerDouble:
    """Answers with what the test set."""

    def __init__(self) -> None:
        self.submitted: list[Submission] = []
        self.answer: Task | Exception | None = a_task()
        self.answers: dict[str, Task | Exception | None] = {}
        self.batches: list[int] = []
        self.is_duplicate = False
        self.begun = asyncio.Event()
        self.left = asyncio.Event()
        self.tasks: dict[TaskId, TaskView] = {}
        self.events: tuple[Event, ...] = ()
        self.changes: asyncio.Queue[TaskChange | None] = asyncio.Queue()
        self.pages: asyncio.Queue[EventPage | None] = asyncio.Queue()
        self.watched_after: list[int] = []
        self.event_queries: list[tuple[EventQuery, bool, bool]] = []
        self.told: list[tuple[object, ...]] = []
        self.queries: list[TaskQuery] = []
        self.deleted: list[TaskId] = []
        self.cancelled: list[TaskId] = []
        self.only_waiting: list[bool] = []
        self.landings: list[LandingDouble] = []
        self.sessions: list[LaneSessionDouble] = []

    async def submit(self, submission: Submission) -> Accepted:
        """The answer; None waits until the caller leaves."""
        self.submitted.append(submission)
        self.begun.set()
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        assert self.answer is not None
        return Accepted(task=self.answer, is_duplicate=self.is_duplicate)

    async def submit_together(self, submissions: Sequence[Submission]) -> list[Accepted | Exception | None]:
        """As `submit`, each with its answer of `answers` by its prompt, if the test set one."""
        self.batches.append(len(submissions))
        self.submitted += submissions
        self.begun.set()
        if self.answer is None:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        return [self._answered(one) for one in submissions]

    def _answered(self, submission: Submission) -> Accepted | Exception | None:
        answer = self.answers.get(submission.request.prompt, self.answer)
        return Accepted(task=answer) if isinstance(answer, Task) else answer

    async def task(self, task_id: TaskId) -> TaskView | None:
        return self.tasks.get(task_id)

    async def task_events(self, task_id: TaskId) -> tuple[Event, ...]:
        return self.events

    async def watch(self, task_id: TaskId, after_sequence: int = 0) -> AsyncGenerator[TaskChange, None]:
        """The changes that the test puts in; None ends it."""
        if task_id not in self.tasks:
            raise UnknownTaskError
        self.watched_after.append(after_sequence)
        try:
            self.begun.set()
            while (change := await self.changes.get()) is not None:
                yield change
        finally:
            self.left.set()

    async def watch_events(self, query: EventQuery, *, only_new: bool, follow: bool) -> AsyncGenerator[EventPage, None]:
        """The pages that the test puts in; None ends it."""
        self.event_queries.append((query, only_new, follow))
        try:
            self.begun.set()
            while (page := await self.pages.get()) is not None:
                yield page
        finally:
            self.left.set()

    async def drain_lane(self, lane_id: LaneId, *, drained: bool) -> LaneView:
        if lane_id != "lane-anisora":
            raise UnknownLaneError
        self.told.append((lane_id, drained))
        return a_lane(is_drained=drained)

    async def set_fallback(self, model: Model, *, enabled: bool) -> QueueView:
        self.told.append((model, enabled))
        return a_queue(is_fallback_manual=enabled)

    async def report_capacity(self, model: Model, *, denied_for_s: float | None, reason: str) -> QueueView:
        self.told.append((model, denied_for_s, reason))
        return a_queue(quota_denied_until=None if denied_for_s is None else AT)

    async def page(self, query: TaskQuery) -> TaskPage:
        self.queries.append(query)
        return TaskPage(tasks=tuple(view.task for view in self.tasks.values()), total=41)

    async def cancel(self, task_id: TaskId, *, only_waiting: bool = False) -> TaskView:
        view = await self.task(task_id)
        if view is None:
            raise UnknownTaskError
        self.cancelled.append(task_id)
        self.only_waiting.append(only_waiting)
        return view

    async def delete(self, task_id: TaskId) -> None:
        if task_id not in self.tasks:
            raise UnknownTaskError
        self.deleted.append(task_id)

    @asynccontextmanager
    async def importing(self, task_id: TaskId) -> AsyncIterator[LandingDouble | None]:
        """None when the test has a task of this id."""
        if task_id in self.tasks:
            yield None
            return
        self.landings.append(LandingDouble())
        yield self.landings[-1]

    def open_lane(self) -> LaneSessionDouble:
        self.sessions.append(LaneSessionDouble(len(self.sessions) + 1))
        self.begun.set()
        return self.sessions[-1]

    def model_limits(self, model: Model) -> ModelLimits:
        size = SizeLimit(
            width=480, height=832, max_num_frames=81, placement="streamed", predicted_peak_bytes=20 * 1024**3, predicted_s=120.5
        )
        return ModelLimits(gpus=("NVIDIA A10G",), sizes=(size,))

    def snapshot(self) -> Snapshot:
        return Snapshot(
            controller_epoch=3,
            lanes=(),
            queues=(),
            degraded=DegradedView(depth=2, max_depth=25, held=1, rescued=1, oldest_wait_s=1.5, max_wait_s=30.0),
            counters=CountersView(accepted=9, fallbacks=1, overloaded_depth=0, overloaded_wait=0, lanes_lost=0),
        )


def a_wish(sequence: int) -> LaneWish:
    """A wish for nothing."""
    return LaneWish(controller_epoch=3, wish=Wish(sequence=sequence), task=None, report_interval_s=2.0)
