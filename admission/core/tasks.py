"""A task, its states and the table of its transitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from runtime.values import changed_by, quickly_made

TaskId = NewType("TaskId", str)
LaneId = NewType("LaneId", str)
Model = NewType("Model", str)


INPUT_PREFIX = "inputs/"
"""Of the object keys of input images; `runtime.objects` gives them."""


class TaskState(StrEnum):
    """Where a task stands. HELD is before acceptance: it lives in memory only and may vanish; all others are durable."""

    HELD = "held"
    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED})

TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = {
    TaskState.HELD: frozenset({TaskState.LEASED, TaskState.QUEUED}),
    TaskState.QUEUED: frozenset({TaskState.LEASED, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.LEASED: frozenset({TaskState.QUEUED, TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED}),
    TaskState.DONE: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
}


class Stage(StrEnum):
    """What is being done; for people, not for decisions."""

    QUEUED = "queued"
    DISPATCH = "dispatch"
    LOADING_PIPELINE = "loading_pipeline"
    INFERENCE = "inference"
    ENCODING = "encoding"
    COMPLETED = "completed"
    FAILED = "failed"


class LaneMode(StrEnum):
    """Which kind of lane serves."""

    DEDICATED = "dedicated"
    DEGRADED_SHARED = "degraded_shared"


class FallbackReason(StrEnum):
    """Why the dedicated lane did not serve."""

    CAPACITY = "capacity"
    QUOTA = "quota"
    MANUAL = "manual"


class FailureCode(StrEnum):
    """Why a task ended without a result; the codes of the design."""

    LANE_LOST = "lane_lost"
    GPU_MEMORY_EXCEEDED = "gpu_memory_exceeded"
    RENDER_FAILED = "render_failed"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    NOT_SERVED = "not_served"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A code and a sentence that is safe to show."""

    code: FailureCode
    message: str


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The files of a finished task; keys of the object store, sizes in bytes and pixels."""

    video_key: str
    media_type: str
    size_bytes: int
    sha256: str
    preview_key: str
    width: int
    height: int
    num_frames: int
    fps: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task as it stands; the core replaces it, never changes it.

    Attributes:
        owner: who asked; callers of one queue are served round robin by owner.
        request_id: the owner's idempotency key; empty: none. Unique per owner.
        fingerprint: SHA-256 (hex) of what the request asked for; tells a repetition from another request under the same key.
        parameters: every value of the request as it is used (JSON); opaque to the core.
        tokens: latent tokens of the clip, ((frames-1)/4+1)*(height/16)*(width/16): the measure of its work.
        attempt: number of the current attempt, 0 before the first lease. It rises at every lease and fences late reports.
        lost_lanes: attempts that ended because their lane was lost; at the third the task fails.
        lane_id, boot_id: holder of the current or last lease.
        queued_at: when it was accepted, aware UTC; 60 minutes later it fails unless it was started.
        leased_at: when the current attempt's lease was given.
        is_withdrawn: it ended early while a lane may still work on it: the memory record of its last attempt is still to come.
        progress: 0 to 100 of the current attempt.
        trace: context of the trace that it was asked for in, as text; opaque to the core. Empty: none.
    """

    task_id: TaskId
    owner: str
    model: Model
    mode: str
    parameters: Mapping[str, object]
    tokens: int
    state: TaskState
    created_at: datetime
    updated_at: datetime
    queued_at: datetime | None = None
    leased_at: datetime | None = None
    attempt: int = 0
    lost_lanes: int = 0
    lane_mode: LaneMode | None = None
    fallback_reason: FallbackReason | None = None
    lane_id: LaneId | None = None
    boot_id: str | None = None
    is_withdrawn: bool = False
    request_id: str = ""
    fingerprint: str = ""
    progress: int = 0
    stage: Stage = Stage.QUEUED
    stage_detail: str = ""
    failure: Failure | None = None
    result: Result | None = None
    trace: str = ""


class IllegalTransitionError(Exception):
    """The core tried a transition that the table does not have: a bug, told with the task."""


def moved(task: Task, state: TaskState, at: datetime, **changes: object) -> Task:
    """The task in its next state; raises IllegalTransitionError when the table forbids it."""
    if state not in TRANSITIONS[task.state]:
        msg = f"task {task.task_id} attempt {task.attempt}: {task.state} -> {state} is not in the table; the task: {task!r}"
        raise IllegalTransitionError(msg)
    changes["state"], changes["updated_at"] = state, at
    return changed_by(task, changes)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRecord:
    """Memory of one attempt after cleanup, as the lane measured it: names and bytes as in `warmlane.generation.v1.MemoryRecord`.

    `figures` holds its JSON; it is empty when `unmeasured_reason` says why nothing was measured.
    """

    unmeasured_reason: str = ""
    figures: Mapping[str, object] = field(default_factory=dict)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, kept: `fallback_activated`, `attempt_started`, `attempt_ended`, `lane_lost`, `memory_record`, ….

    Attributes:
        task_id, lane_id, model: what it concerns; None where it concerns none.
        memory: set for `memory_record`.
        sequence: number that the store gave it, rising with every event and never given twice; 0 before it is stored.
    """

    event_type: str
    created_at: datetime
    value: str = ""
    reason: str = ""
    task_id: TaskId | None = None
    attempt: int = 0
    lane_id: LaneId | None = None
    model: Model | None = None
    memory: MemoryRecord | None = None
    sequence: int = 0


def input_keys(parameters: Mapping[str, object]) -> frozenset[str]:
    """The object keys of a task's input images: every text under the name "key" that begins with INPUT_PREFIX, at any depth."""
    return frozenset(_input_keys(parameters))


def _input_keys(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        key = value.get("key")
        if isinstance(key, str) and key.startswith(INPUT_PREFIX):
            yield key
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _input_keys(inner)
