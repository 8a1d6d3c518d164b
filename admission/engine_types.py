"""The values and errors that the engine gives its callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from admission.core.commands import ReplyOverloaded
    from admission.core.lanes import Availability, LaneSpec, Wish
    from admission.core.tasks import MemoryRecord, Model, Task, TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task and where it stands in its queue.

    Attributes:
        queue_position: tasks ahead of it, 0 at the head; None when it does not wait.
        eta_s: predicted seconds to its end; None while nothing was measured.
    """

    task: Task
    queue_position: int | None
    eta_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneWish:
    """A wish for one lane, with everything its message needs.

    Attributes:
        task: the leased task; None when the wish has no lease.
        report_interval_s: the lane reports at least this often.
    """

    controller_epoch: int
    wish: Wish
    task: Task | None
    report_interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkView:
    """What a lane works on; progress 0 to 100."""

    task_id: TaskId
    attempt: int
    progress: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneView:
    """One lane as operators see it.

    Attributes:
        reason: why it is not ready; empty when it is.
        last_report_age_s: None when this admission has not heard of it.
        last_memory: figures after its last attempt.
    """

    spec: LaneSpec
    availability: Availability
    warm: bool
    resident_model: Model | None
    work: WorkView | None
    reason: str
    last_report_age_s: float | None
    cold_starts: int
    last_memory: MemoryRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """One model's queue: waiting (depth), its bound, whether a lane of it is ready, tasks with a lease."""

    model: Model
    depth: int
    max_depth: int
    served: bool
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedView:
    """The shared pool's waiting room: depth is held plus rescued; waits in seconds."""

    depth: int
    max_depth: int
    held: int
    rescued: int
    oldest_wait_s: float
    max_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CountersView:
    """Counts since this admission started."""

    accepted: int
    fallbacks: int
    overloaded_depth: int
    overloaded_wait: int
    lanes_lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one instant."""

    controller_epoch: int
    lanes: tuple[LaneView, ...]
    queues: tuple[QueueView, ...]
    degraded: DegradedView
    counters: CountersView


class OverloadedError(Exception):
    """The degraded queue cannot take or keep the request; `reply` says which bound was reached."""

    def __init__(self, reply: ReplyOverloaded) -> None:
        """Keeps the core's answer."""
        super().__init__(f"overloaded by {reply.cause}: depth {reply.depth} of {reply.max_depth}")
        self.reply = reply


class NotYetStoredError(Exception):
    """A cancel or a delete is decided but not on disk yet; it will be when the store takes writes again."""


class UnknownTaskError(Exception):
    """There is no such task, or it was deleted."""


class InvalidReportError(Exception):
    """A lane's report makes no sense; the text says which field."""


class SessionEndedError(Exception):
    """This stream of the lane is over: a newer one took its place, or admission stops."""
