"""What the core knows of a lane: its specification, its last report and whether it can be given work."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from admission.core.tasks import Failure, LaneId, LaneMode, MemoryRecord, Model, Result, Stage, TaskId
from runtime.fit.cost import WorkerMemory
from runtime.values import quickly_made


class Availability(StrEnum):
    """Whether a lane can be given work."""

    READY = "ready"
    COLD = "cold"
    UNAVAILABLE = "unavailable"


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """What a lane is; kept across restarts, so that its requests are held for it after one.

    Attributes:
        mode: DEDICATED serves one model, DEGRADED_SHARED any of `models`, one resident at a time.
        memory: what its GPU and host have and what its models need, as the lane measured it; None: it has never said.
    """

    lane_id: LaneId
    mode: LaneMode
    models: tuple[Model, ...]
    device: str = ""
    memory: WorkerMemory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLane:
    """What is kept of a lane across restarts.

    Attributes:
        is_drained: an operator wants it to get no more work.
        retired: placements that ran out of memory too often in this boot of the lane; a later boot has all of them again.
        retired_boot: the boot id; empty when nothing is retired.
    """

    spec: LaneSpec
    is_drained: bool = False
    retired: tuple[tuple[Model, str], ...] = ()
    retired_boot: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """What operators said about a model; kept across restarts.

    Attributes:
        is_fallback_manual: its requests go to the pool although its own lanes may be ready.
        quota_denied_until: aware UTC; None: not denied.
        quota_reason: a sentence for operators.
    """

    model: Model
    is_fallback_manual: bool = False
    quota_denied_until: datetime | None = None
    quota_reason: str = ""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended on the lane: exactly one of result and failure is set.

    Attributes:
        denoise_s: time spent in denoising, for the prediction of render times; None when not measured.
    """

    result: Result | None = None
    failure: Failure | None = None
    memory: MemoryRecord
    denoise_s: float | None = None
    render_s: float | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the lane says of an attempt. `outcome` is set once it ended; it is repeated until acknowledged.

    Attributes:
        gpu_free: the attempt needs the GPU no more; the rest can go on beside another one.
    """

    task_id: TaskId
    attempt: int
    stage: Stage
    progress: int
    detail: str = ""
    gpu_free: bool = False
    outcome: Outcome | None = None

    @property
    def lease(self) -> Lease:
        """Of which it speaks."""
        return Lease(task_id=self.task_id, attempt=self.attempt)

    def is_of(self, lease: Lease) -> bool:
        """Whether it speaks of this one. Asked several times at every report of every lane."""
        return self.task_id == lease.task_id and self.attempt == lease.attempt


class StartCause(StrEnum):
    """What kind of failure kept a lane from becoming warm."""

    WEIGHTS_MISSING = "weights_missing"
    WEIGHTS_UNUSABLE = "weights_unusable"
    HOST_MEMORY = "host_memory"
    GPU_MEMORY = "gpu_memory"
    DEVICE = "device"
    DEADLINE = "deadline"
    PROCESS_DIED = "process_died"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailure:
    """The lane cannot become warm; it keeps trying.

    Attributes:
        reason: of the last try; a sentence for operators.
        attempts: tries that failed in a row.
        next_attempt_at: aware UTC; None: the lane did not say.
    """

    cause: StartCause
    reason: str
    attempts: int
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load of the lane is.

    Attributes:
        model: empty while its process starts.
        stage: a short sentence.
        total_bytes: 0 while nothing is read.
    """

    model: str
    stage: str
    read_bytes: int = 0
    total_bytes: int = 0


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A lane's whole state at one instant.

    Attributes:
        session: number that admission gave this stream; a report of an older one is ignored.
        seen_sequence: newest wish that the lane had seen; what it says about a newer one means nothing.
        load: what it is loading; None: nothing.
        start_failure: why it cannot become warm; None once it is.
        object_store_failure: why an attempt's files cannot be stored or fetched now; empty: they can, as far as it knows.
        work: the attempt that has the GPU, or had it and was not moved aside yet.
        finishing: an earlier one that is finished beside it.
    """

    spec: LaneSpec
    boot_id: str
    session: int
    seen_sequence: int
    warm: bool
    healthy: bool
    draining: bool
    resident_model: Model | None
    reason: str = ""
    work: Work | None = None
    cold_starts: int = 0
    load: LoadProgress | None = None
    start_failure: StartFailure | None = None
    object_store_failure: str = ""
    finishing: Work | None = None

    @property
    def works(self) -> tuple[Work, ...]:
        """Every attempt that the lane has, the older one first."""
        if self.finishing is None:
            return () if self.work is None else (self.work,)
        return (self.finishing,) if self.work is None else (self.finishing, self.work)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one lane to work on one attempt; what to render is in the task. Task and attempt alone say which lease it is.

    Attributes:
        placement: the fastest on which the task fits there, by prediction; empty: the lane chooses.
        predicted_peak_bytes: with it, corrected by what was measured; 0: not predicted.
    """

    task_id: TaskId
    attempt: int
    placement: str = field(default="", compare=False)
    predicted_peak_bytes: int = field(default=0, compare=False)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The state that admission wants of a lane, sent whole; sequence rises with every wish of a session.

    Attributes:
        acknowledged: the newest ended attempt that is settled on disk: the lane may forget it.
        acknowledged_before: the one settled before it; a lane has two at most, so it needs no more.
        finishing: an earlier lease that goes on beside `lease`, without the GPU.
        render_deadline_s: how long rendering may take, from the lease's arrival.
        drain: an operator wants it to get no more work.
    """

    sequence: int
    lease: Lease | None = None
    acknowledged: Lease | None = None
    acknowledged_before: Lease | None = None
    finishing: Lease | None = None
    render_deadline_s: float = 0.0
    drain: bool = False
