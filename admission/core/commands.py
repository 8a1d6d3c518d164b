"""What the shell must do, in this order always: **persist before reply, reply before send**.

The shell writes every `Persist…` and `Record` of one decision in one transaction; only when that is on disk does it show the tasks and
events, and carry out the others, in the order in which they stand. Nothing that anyone is told can then be forgotten by a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from admission.core.lanes import KnownLane, ModelPolicy, Wish
from admission.core.learned import Learned
from admission.core.tasks import Event, LaneId, Model, Task, TaskId
from runtime.values import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PersistTask:
    """Write the task as it stands (insert or replace), then show it to those who watch it; both may be merged with a later one.

    `accepts`: this write is its acceptance; if it cannot be stored, tell the core.
    """

    task: Task
    accepts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistLane:
    """Write what is known of the lane."""

    lane: KnownLane


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetLane:
    """Remove what was kept of the lane."""

    lane_id: LaneId


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistPolicy:
    """Write what operators said about a model."""

    policy: ModelPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistLearned:
    """Write what attempts showed about one placement."""

    learned: Learned


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Append an event."""

    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyAccepted:
    """Tell the caller that waits for this task that it is accepted."""

    task: Task


class OverloadCause(StrEnum):
    """Which bound of the degraded queue was reached."""

    DEPTH = "depth"
    WAIT = "wait"


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyOverloaded:
    """Tell the caller `queue_overloaded`. Written nowhere: overload answers come from memory.

    Attributes:
        depth: places taken when it was decided, at most max_depth.
        waited_s: how long this request waited.
        retry_after_s: when a retry may succeed.
    """

    task_id: TaskId
    model: Model
    cause: OverloadCause
    depth: int
    max_depth: int
    waited_s: float
    max_wait_s: float
    retry_after_s: float


class RefusalCode(StrEnum):
    """Why a request can never be served as it is; the codes of the design."""

    VRAM_EXCEEDED = "vram_exceeded"
    DEADLINE_UNREACHABLE = "deadline_unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What is wrong with a request of this shape, and what would do. The same for every request of the shape until something is learned.

    Attributes:
        placement: that comes nearest.
        predicted_bytes, limit_bytes: its predicted peak and what there is, on the GPU where that comes nearest.
        predicted_s, limit_s: how long it would render at least, and how long it may; 0 for VRAM_EXCEEDED.
        max_num_frames: the most frames at this size; 0: none.
        max_size: the largest width and height at this frame count and shape of picture; None: none.
    """

    code: RefusalCode
    placement: str = ""
    predicted_bytes: int = 0
    limit_bytes: int = 0
    predicted_s: float = 0.0
    limit_s: float = 0.0
    max_num_frames: int = 0
    max_size: tuple[int, int] | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRefused:
    """Tell the caller that no lane could serve this. Written nowhere."""

    task_id: TaskId
    model: Model
    refusal: Refusal


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SendWish:
    """Send the lane what is wanted of it, on the stream of this session. If that is gone it may be dropped: the next report repairs it."""

    lane_id: LaneId
    session: int
    wish: Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardAttempt:
    """Remove what an attempt wrote to the object store: it was refused, lost or cancelled.

    The core forgets ended tasks, so after a restart it may ask this of an attempt that was committed: the shell looks in the store first.
    """

    task_id: TaskId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardTask:
    """Remove everything that any attempt of the task wrote to the object store: the task was deleted."""

    task_id: TaskId


Write = PersistTask | PersistLane | ForgetLane | PersistPolicy | PersistLearned | Record
"""What goes to the store, all of one decision in one transaction."""

Command = Write | ReplyAccepted | ReplyOverloaded | ReplyRefused | SendWish | DiscardAttempt | DiscardTask
