"""The shapes of what the operators' console is told, and of what it says."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from http_bridge.schemas import StageName, TaskStatus
from http_bridge.schemas_admin import FallbackReasonName, LaneMemory, LaneModeName, SystemDiagnostics

ProblemCode = Literal[
    "admission_restarted",
    "cold_start_fails",
    "fallback",
    "lane_drained",
    "lane_not_ready",
    "manual_fallback",
    "memory_drifts",
    "model_not_served",
    "object_store_away",
    "out_of_memory",
    "overloaded",
    "placement_retired",
    "queue_nearly_full",
    "quota_denied",
    "store_fails",
    "store_slow",
]


class Problem(BaseModel):
    """Something that an operator may have to look at, as it is now."""

    code: ProblemCode
    severity: Literal["critical", "warning", "info"]
    lane: str | None
    model: str | None
    text: str
    runbook: str = Field(description="The entry of docs/runbooks that says what to do.")


class ConsoleTask(BaseModel):
    """One task, without what was asked for: no prompt, no image."""

    task_id: str
    model: str
    mode: str
    status: TaskStatus
    stage: StageName
    stage_detail: str | None
    progress: int = Field(ge=0, le=100)
    lane: str | None = Field(description="Of the current or last attempt.")
    lane_mode: LaneModeName | None
    fallback_reason: FallbackReasonName | None
    attempt: int
    error_code: str | None
    queue_position: int | None
    eta_seconds: float | None
    created_at: datetime
    updated_at: datetime


class ConsoleSnapshot(SystemDiagnostics):
    """Data of the event `snapshot`: everything as it is now."""

    problems: list[Problem] = Field(description="The worst first.")
    tasks: list[ConsoleTask] = Field(description="The newest ones, newest first.")


class ConsoleEvent(BaseModel):
    """Something that was recorded; docs/events.md lists the names."""

    sequence: int
    event_type: str
    value: str
    reason: str
    created_at: datetime
    lane: str | None
    model: str | None
    task_id: str | None
    attempt: int
    memory: LaneMemory | None = Field(description="Of a memory_record.")


class ConsoleEvents(BaseModel):
    """Data of the event `events`."""

    reset: bool = Field(description="What came before is to be forgotten: these are the newest events, and some between them are left out.")
    events: list[ConsoleEvent] = Field(description="Oldest first.")


class ConsoleAway(BaseModel):
    """Data of the event `away`: admission does not answer. A snapshot follows when it does."""

    reason: str


class DrainOrder(BaseModel):
    """POST /admin/lanes/{lane}/drain."""

    model_config = ConfigDict(extra="forbid", strict=True)

    drained: bool = Field(description="True: the lane gets no more work; false: it gets work again.")


class DrainReply(BaseModel):
    """The lane afterwards."""

    lane: str
    is_drained: bool
    is_busy: bool = Field(description="It still works on something, which goes on.")


class FallbackOrder(BaseModel):
    """POST /admin/models/{model}/fallback."""

    model_config = ConfigDict(extra="forbid", strict=True)

    enabled: bool = Field(description="True: the model's requests go to the degraded pool; false: they need not any more.")


class FallbackReply(BaseModel):
    """The model's queue afterwards."""

    model: str
    is_manual_fallback: bool
    fallback_reason: FallbackReasonName | None = Field(description="Why requests go to the pool now; null: they do not.")
