"""The shapes of the replies of the admin paths."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

LaneModeName = Literal["dedicated", "degraded_shared"]
FallbackReasonName = Literal["capacity", "quota", "manual"]
AvailabilityName = Literal["ready", "cold", "unavailable"]


class AdminSessionReply(BaseModel):
    """GET /admin/session."""

    active: Literal[True]
    idle_timeout_seconds: int = Field(description="The session ends after so long without use.")
    last_activity_at: datetime = Field(description="The last use, which is this call.")


StartFailureName = Literal[
    "weights_missing", "weights_unusable", "host_memory", "gpu_memory", "device", "deadline", "process_died", "other"
]


class OutOfMemoryItem(BaseModel):
    """Once that the memory ran out during an attempt."""

    phase: str = Field(description="load, text, encode, denoise or decode.")
    placement: str = Field(description="How the weights lay then.")
    peak_bytes: int | None = Field(description="Allocated by then; null: not known.")
    budget_bytes: int | None = Field(description="What could be used then; null: not known.")


class LaneMemory(BaseModel):
    """Figures after a lane's last attempt, in bytes; null where the device has none."""

    measured_at: datetime | None
    unmeasured_reason: str | None = Field(description="Why nothing was measured; null when it was.")
    placement: str | None = Field(description="How the weights lay.")
    allocated_bytes: int | None
    reserved_bytes: int | None
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    predicted_peak_bytes: int | None
    driver_free_bytes: int | None
    host_rss_bytes: int | None = Field(description="Resident set of the pipeline's process.")
    pinned_bytes: int | None
    drift_bytes: int | None = Field(description="What stayed, above the least that was seen.")
    out_of_memory: list[OutOfMemoryItem] = Field(description="Every time the memory ran out, oldest first; a leaner try may have done it.")


class LaneLoad(BaseModel):
    """What a lane loads."""

    model: str | None
    stage: str
    read_bytes: int
    total_bytes: int = Field(description="0: not known, or nothing is read.")


class LaneStartFailure(BaseModel):
    """Why a lane cannot become warm; it keeps trying."""

    cause: StartFailureName
    reason: str
    attempts: int = Field(description="Tries that failed in a row.")
    next_attempt_at: datetime | None


class LaneWork(BaseModel):
    """A task that a lane has."""

    task_id: str
    attempt: int
    progress: int = Field(ge=0, le=100)


class LaneDiagnostics(BaseModel):
    """One lane."""

    lane: str
    model: str | None = Field(description="The model it serves; null for a lane of several.")
    models: list[str]
    mode: LaneModeName | None
    availability: AvailabilityName | None
    reason: str | None = Field(description="Why it is not ready.")
    warm: bool
    resident_model: str | None
    is_busy: bool
    work: LaneWork | None = Field(description="What it renders.")
    finishing: LaneWork | None = Field(description="An earlier task whose video is written and stored beside that.")
    load: LaneLoad | None
    start_failure: LaneStartFailure | None
    object_store_failure: str | None = Field(description="Why an attempt's files cannot be stored or fetched now; null: nothing is wrong.")
    retired_placements: list[str] = Field(description="`model placement` that it goes without until it is restarted.")
    is_drained: bool
    cold_start_count: int
    gpu: str | None
    memory_budget_bytes: int | None
    memory: LaneMemory | None
    fallback_reason: FallbackReasonName | None = Field(description="Why requests of its model go to the pool now; null: they do not.")
    fallback_seconds: float | None = Field(description="For how long they have.")
    last_report_seconds: float | None = Field(description="Since its last report.")


class QueueDiagnostics(BaseModel):
    """One model's queue."""

    model: str
    depth: int
    max_depth: int
    running: int
    is_served: bool = Field(description="A ready lane, of the model or of the pool, can serve it.")
    fallback_reason: FallbackReasonName | None
    fallback_seconds: float | None
    is_manual_fallback: bool
    quota_denied_until: datetime | None
    predicted_wait_seconds: float | None


class DegradedDiagnostics(BaseModel):
    """The pool's waiting room."""

    depth: int
    max_depth: int
    held: int
    rescued: int
    oldest_wait_seconds: float | None
    max_wait_seconds: float


class StoreDiagnostics(BaseModel):
    """How the store does that makes acceptances durable."""

    slowest_commit_seconds: float | None = Field(description="Of the last minute; null: nothing was written.")
    failures: int = Field(description="Transactions that it could not take.")
    is_failing: bool = Field(description="It could not take the last one: nothing is accepted meanwhile.")


class SystemDiagnostics(BaseModel):
    """What admission sees at one instant; counts are since it started. No key, token or prompt is in it."""

    taken_at: datetime
    controller_epoch: int = Field(description="Rises by one at every start of admission.")
    started_at: datetime | None = Field(description="Since when this admission serves.")
    store: StoreDiagnostics
    queue_depth: int = Field(description="Requests that wait for the pool; those of a model's own queue are in `queues`.")
    queue_overloaded_count: int = Field(description="Requests that were refused because the pool's waiting room was full.")
    queue_timeout_count: int = Field(description="Requests that were refused because they had waited for as long as one may.")
    fallback_count: int = Field(description="Requests that went the degraded way.")
    accepted_count: int
    lane_lost_count: int = Field(description="Attempts whose lane was lost.")
    lanes: list[LaneDiagnostics]
    queues: list[QueueDiagnostics]
    degraded: DegradedDiagnostics


class AccountsDiagnostics(SystemDiagnostics):
    """The same, beside what the server of accounts says of itself."""

    upstream: dict[str, Any] | None = Field(description="As the server of accounts tells it; null without one.")


class AdminHealthReply(BaseModel):
    """GET /admin/health."""

    ok: bool = Field(description="Every model can be served now: a ready lane has it.")
    ready_accounts: int = Field(description="Ready lanes; with a server of accounts its ready ones, 0 while it does not answer.")
    diagnostics: SystemDiagnostics


class SystemEvent(BaseModel):
    """Something that happened to a lane or to a model."""

    event_type: str
    value: str
    reason: str
    created_at: datetime
    lane: str | None
    model: str | None


class AccountsReply(BaseModel):
    """GET /admin/accounts."""

    accounts: list[dict[str, Any]] = Field(description="As the server of the accounts tells them; empty without one.")
    diagnostics: AccountsDiagnostics
    events: list[SystemEvent | dict[str, Any]] = Field(
        description="Of lanes and models, newest first, at most 100; behind them those of the server of accounts, as it tells them."
    )


class AuditItem(BaseModel):
    """One admin call, or refused ones that came so fast that they were written together."""

    id: int
    ts: datetime
    ip: str
    action: str
    details: str
    success: bool


class LogsReply(BaseModel):
    """GET /admin/logs."""

    logs: list[AuditItem] = Field(description="Newest first.")
