"""What can happen to the queue. Each is a fact; the time it happened at comes beside it."""

from __future__ import annotations

from dataclasses import dataclass

from admission.core.fit import ShapeKey
from admission.core.lanes import Report
from admission.core.tasks import LaneId, Model, Task, TaskId
from runtime.values import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted:
    """A valid request came; `task` is in state HELD with nothing decided. Answered by exactly one Accept or Refuse command.

    Attributes:
        waited_s: how long an admission that went away held it already; counts against the limit of the wait.
    """

    task: Task
    waited_s: float = 0.0


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTurnedAway:
    """A valid request came to a core that `is_closed` to it; answered with ReplyRefused or ReplyOverloaded. There was never a task."""

    task_id: TaskId
    model: Model
    shape: ShapeKey | None = None
    waited_s: float = 0.0


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLeft:
    """Whoever waited for the acceptance of this task is gone: a held one frees its place, one accepted but not dispatched is cancelled.

    Attributes:
        may_return: the caller can ask again and gets this task: what was accepted goes on.
    """

    task_id: TaskId
    may_return: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Someone asked to cancel; a terminal task stays as it is."""

    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneReported:
    """A lane said what it is and does."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneDetached:
    """The stream of this session ended. Nothing follows at once: leases and contact run out by time."""

    lane_id: LaneId
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptancesNotStored:
    """The store refused: these tasks were never accepted and are forgotten, all at once; their callers get `service_unavailable`."""

    task_ids: frozenset[TaskId]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDeleted:
    """An ended task is being removed from the store: nothing may be written about it any more."""

    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskImported:
    """A task that ended in an earlier system is taken over, under an id that is not known here. Answered by ReplyAccepted."""

    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneDrainSet:
    """An operator wants the lane to get no more work, or work again. An unknown lane changes nothing."""

    lane_id: LaneId
    drained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackSet:
    """An operator sends the model to the pool, or no longer."""

    model: Model
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityReported:
    """The quota for lanes of the model is denied for so many seconds, or (None) granted."""

    model: Model
    denied_for_s: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionStarted:
    """What the store holds was taken over; from now on this admission rules, under this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSlowed:
    """A transaction of the store took so long that callers wait for it."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """A deadline of the core is due."""


CoreEvent = (
    TaskSubmitted
    | RequestTurnedAway
    | CallerLeft
    | CancelRequested
    | LaneReported
    | LaneDetached
    | AcceptancesNotStored
    | TaskDeleted
    | TaskImported
    | LaneDrainSet
    | FallbackSet
    | CapacityReported
    | AdmissionStarted
    | StoreSlowed
    | TimePassed
)
