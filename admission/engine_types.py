"""The values and errors that the engine gives its callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.values import quickly_made

if TYPE_CHECKING:
    from datetime import datetime

    from admission.core.commands import Refusal, ReplyOverloaded
    from admission.core.lanes import Availability, LaneSpec, LoadProgress, StartFailure, Wish
    from admission.core.tasks import Event, FallbackReason, MemoryRecord, Model, Task, TaskId
    from runtime.rules.request import GenerationRequest


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checked request and who asks.

    Attributes:
        request_id: the owner's idempotency key; empty: none.
        waited_s: how long an admission that went away held the request already; counts against the limit of the wait.
        abandon: when every caller is gone before the reply and no lane has the task, it is cancelled although it has a request_id.
        trace: see `Task.trace`.
    """

    request: GenerationRequest
    owner: str
    request_id: str = ""
    waited_s: float = 0.0
    abandon: bool = False
    trace: str = ""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The durable task; `is_duplicate`: it was made by an earlier request with the same key."""

    task: Task
    is_duplicate: bool = False


@quickly_made
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


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """What a watcher of a task is told: how it stands, and every event recorded since it was told last, oldest first."""

    view: TaskView
    events: tuple[Event, ...]
    last_sequence: int


@quickly_made
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
        work: what has its GPU.
        finishing: an earlier one, whose video is written and stored beside it.
        reason: why it is not ready; empty when it is.
        last_report_age_s: None when this admission has not heard of it.
        last_memory: figures after its last attempt.
        is_drained: an operator wants it to get no more work.
        retired: placements that it must not use until it is restarted.
        load: what it is loading; None: nothing.
        start_failure: why it cannot become warm; None: it is, or nothing failed yet.
        object_store_failure: why an attempt's files cannot be stored or fetched now; empty: nothing is known to be wrong.
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
    is_drained: bool
    retired: tuple[tuple[Model, str], ...] = ()
    load: LoadProgress | None = None
    start_failure: StartFailure | None = None
    finishing: WorkView | None = None
    object_store_failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """One model's queue: waiting (depth), its bound, whether a lane of it is ready, tasks with a lease.

    Attributes:
        fallback_reason: why a request that comes now goes the degraded way; None: it does not.
        fallback_since: since when requests do; None while none did.
        quota_denied_until: aware UTC; None: not denied.
        predicted_wait_s: of a request that comes now; None until something was measured.
    """

    model: Model
    depth: int
    max_depth: int
    served: bool
    running: int
    fallback_reason: FallbackReason | None
    fallback_since: datetime | None
    is_fallback_manual: bool
    quota_denied_until: datetime | None
    predicted_wait_s: float | None


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
class StoreView:
    """How the store does.

    Attributes:
        slowest_commit_s: of the last minute; None: nothing was written.
        failures: transactions that it could not take since this admission started.
        is_failing: it could not take the last one.
    """

    slowest_commit_s: float | None = None
    failures: int = 0
    is_failing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one instant; `started_at` is when this admission began to rule."""

    controller_epoch: int
    lanes: tuple[LaneView, ...]
    queues: tuple[QueueView, ...]
    degraded: DegradedView
    counters: CountersView
    store: StoreView = StoreView()
    started_at: datetime | None = None


class OverloadedError(Exception):
    """The degraded queue cannot take or keep the request; `reply` says which bound was reached."""

    def __init__(self, reply: ReplyOverloaded) -> None:
        """Keeps the core's answer."""
        super().__init__(f"overloaded by {reply.cause}: depth {reply.depth} of {reply.max_depth}")
        self.reply = reply


class RefusedError(Exception):
    """No lane can serve the request, by its predicted memory or time; `refusal` says what would do."""

    def __init__(self, refusal: Refusal) -> None:
        """Keeps the core's answer."""
        super().__init__(refusal.code.value)
        self.refusal = refusal


class NotYetStoredError(Exception):
    """A cancel or a delete is decided but not on disk yet; it will be when the store takes writes again."""


class RequestReusedError(Exception):
    """The owner used this idempotency key before, for another request."""


class UnknownLaneError(Exception):
    """No lane of this id is known."""


class UnknownTaskError(Exception):
    """There is no such task, or it was deleted."""


class InvalidReportError(Exception):
    """A lane's report makes no sense; the text says which field."""


class SessionEndedError(Exception):
    """This stream of the lane is over: a newer one took its place, or admission stops."""
