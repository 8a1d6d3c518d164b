"""Admission's snapshot and events as the admin paths show them; pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, cast

from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1.task_pb2 import FallbackReason, LaneMode, TaskEvent
from warmlane.generation.v1.generation_pb2 import StartFailureCause

from http_bridge.convert import moment
from http_bridge.schemas_admin import (
    AvailabilityName,
    DegradedDiagnostics,
    FallbackReasonName,
    LaneDiagnostics,
    LaneLoad,
    LaneMemory,
    LaneModeName,
    LaneStartFailure,
    LaneWork,
    OutOfMemoryItem,
    QueueDiagnostics,
    StartFailureName,
    StoreDiagnostics,
    SystemDiagnostics,
    SystemEvent,
)

if TYPE_CHECKING:
    from datetime import datetime

    from google.protobuf.duration_pb2 import Duration
    from warmlane.generation.v1.generation_pb2 import LoadProgress, MemoryRecord, StartFailure

LANE_EVENTS = (
    "cold_start",
    "cold_start_failed",
    "lane_attached",
    "lane_drained",
    "lane_forgotten",
    "lane_not_ready",
    "lane_ready",
    "lane_resumed",
    "memory_drift",
    "object_store_away",
    "object_store_back",
    "placement_retired",
    "residency_changed",
)
MODEL_EVENTS = (
    "fallback_set",
    "model_fallback_ended",
    "model_fallback_started",
    "queue_overloaded",
    "queue_timeout",
    "quota_denied",
    "quota_restored",
)
ADMISSION_EVENTS = ("admission_started", "store_slow")


def diagnostics(snapshot: operator.GetSnapshotResponse) -> SystemDiagnostics:
    """What the admin paths show of a snapshot."""
    taken_at, served = moment(snapshot.taken_at), _served_models(snapshot)
    queues = [_queue(queue, taken_at, is_served=queue.model in served) for queue in snapshot.queues]
    counters = snapshot.counters
    return SystemDiagnostics(
        taken_at=taken_at,
        controller_epoch=snapshot.controller_epoch,
        started_at=moment(snapshot.started_at) if snapshot.HasField("started_at") else None,
        store=_store(snapshot.store),
        queue_depth=snapshot.degraded.depth,
        queue_overloaded_count=counters.overloaded_depth,
        queue_timeout_count=counters.overloaded_wait,
        fallback_count=counters.fallbacks,
        accepted_count=counters.accepted,
        lane_lost_count=counters.lanes_lost,
        lanes=[lane_diagnostics(lane, queues) for lane in snapshot.lanes],
        queues=queues,
        degraded=_degraded(snapshot.degraded),
    )


def is_everything_served(found: SystemDiagnostics) -> bool:
    """Every model can be served now."""
    return bool(found.queues) and all(queue.is_served for queue in found.queues)


def ready_lanes(found: SystemDiagnostics) -> int:
    """How many lanes can be given work."""
    return sum(lane.availability == "ready" for lane in found.lanes)


def system_event(event: TaskEvent) -> SystemEvent:
    """One event of a lane or a model."""
    return SystemEvent(
        event_type=event.event_type,
        value=event.value,
        reason=event.reason,
        created_at=moment(event.created_at),
        lane=event.lane_id or None,
        model=event.model or None,
    )


def _served_models(snapshot: operator.GetSnapshotResponse) -> frozenset[str]:
    """Models that a ready lane has. A lane of its own does not serve a model that an operator sent to the pool."""
    manual = {queue.model for queue in snapshot.queues if queue.manual_fallback}
    return frozenset(
        model
        for lane in snapshot.lanes
        if lane.availability == operator.AVAILABILITY_READY
        for model in lane.models
        if model not in manual or lane.lane_mode == LaneMode.LANE_MODE_DEGRADED_SHARED
    )


def _queue(queue: operator.QueueSnapshot, taken_at: datetime, *, is_served: bool) -> QueueDiagnostics:
    fell_back = queue.HasField("fallback_since")
    return QueueDiagnostics(
        model=queue.model,
        depth=queue.depth,
        max_depth=queue.max_depth,
        running=queue.running,
        is_served=is_served,
        fallback_reason=fallback_reason(queue),
        fallback_seconds=max(0.0, (taken_at - moment(queue.fallback_since)).total_seconds()) if fell_back else None,
        is_manual_fallback=queue.manual_fallback,
        quota_denied_until=moment(queue.quota_denied_until) if queue.HasField("quota_denied_until") else None,
        predicted_wait_seconds=_seconds(queue.predicted_wait) if queue.HasField("predicted_wait") else None,
    )


def fallback_reason(queue: operator.QueueSnapshot) -> FallbackReasonName | None:
    """Why requests of the model go to the pool now; None: they do not."""
    return cast("FallbackReasonName | None", _word(FallbackReason, queue.fallback_reason, "FALLBACK_REASON_"))


def lane_diagnostics(lane: operator.LaneSnapshot, queues: Iterable[QueueDiagnostics] = ()) -> LaneDiagnostics:
    """One lane; what the queues of its models are, it is told."""
    # Of several models the one that fell back first speaks for the lane.
    fallen = [queue for queue in queues if queue.model in lane.models and queue.fallback_reason is not None]
    longest = max(fallen, key=lambda queue: queue.fallback_seconds or 0.0, default=None)
    return LaneDiagnostics(
        lane=lane.lane_id,
        model=lane.models[0] if len(lane.models) == 1 else None,
        models=list(lane.models),
        mode=cast("LaneModeName | None", _word(LaneMode, lane.lane_mode, "LANE_MODE_")),
        availability=cast("AvailabilityName | None", _word(operator.Availability, lane.availability, "AVAILABILITY_")),
        reason=lane.reason or None,
        warm=lane.warm,
        resident_model=lane.resident_model or None,
        is_busy=bool(lane.task_id),
        work=LaneWork(task_id=lane.task_id, attempt=lane.attempt, progress=_percent(lane.progress)) if lane.task_id else None,
        finishing=_finishing(lane),
        load=_load(lane.load) if lane.HasField("load") else None,
        start_failure=_start_failure(lane.start_failure) if lane.HasField("start_failure") else None,
        object_store_failure=lane.object_store_failure or None,
        retired_placements=[f"{one.model} {one.placement}" for one in lane.retired_placements],
        is_drained=lane.drained,
        cold_start_count=lane.cold_starts,
        gpu=lane.gpu or lane.device or None,
        memory_budget_bytes=lane.memory_budget_bytes or None,
        memory=lane_memory(lane.last_memory) if lane.HasField("last_memory") else None,
        fallback_reason=longest.fallback_reason if longest else None,
        fallback_seconds=longest.fallback_seconds if longest else None,
        last_report_seconds=_seconds(lane.last_report_age) if lane.HasField("last_report_age") else None,
    )


_FIGURES: tuple[
    Literal[
        "allocated_bytes",
        "reserved_bytes",
        "peak_allocated_bytes",
        "peak_reserved_bytes",
        "driver_free_bytes",
        "pinned_bytes",
        "drift_bytes",
    ],
    ...,
] = (
    "allocated_bytes",
    "reserved_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "driver_free_bytes",
    "pinned_bytes",
    "drift_bytes",
)


def lane_memory(record: MemoryRecord) -> LaneMemory:
    """The figures of one attempt."""
    figures = {name: getattr(record, name) if record.HasField(name) else None for name in _FIGURES}
    return LaneMemory(
        measured_at=moment(record.measured_at) if record.HasField("measured_at") else None,
        unmeasured_reason=record.unmeasured_reason or None,
        placement=record.placement or None,
        predicted_peak_bytes=record.predicted_peak_bytes or None,
        host_rss_bytes=record.host_rss_after_bytes if record.HasField("host_rss_after_bytes") else None,
        out_of_memory=[
            OutOfMemoryItem(
                phase=one.phase, placement=one.placement, peak_bytes=one.peak_bytes or None, budget_bytes=one.budget_bytes or None
            )
            for one in record.out_of_memory
        ],
        **figures,
    )


def _finishing(lane: operator.LaneSnapshot) -> LaneWork | None:
    if not lane.HasField("finishing"):
        return None
    task = lane.finishing
    return LaneWork(task_id=task.task_id, attempt=task.attempt, progress=_percent(task.progress))


def _percent(progress: int) -> int:
    return min(100, max(0, progress))


def _load(load: LoadProgress) -> LaneLoad:
    return LaneLoad(model=load.model or None, stage=load.stage, read_bytes=load.read_bytes, total_bytes=load.total_bytes)


def _start_failure(failure: StartFailure) -> LaneStartFailure:
    return LaneStartFailure(
        cause=cast("StartFailureName", _word(StartFailureCause, failure.cause, "START_FAILURE_CAUSE_") or "other"),
        reason=failure.reason,
        attempts=failure.attempts,
        next_attempt_at=moment(failure.next_attempt_at) if failure.HasField("next_attempt_at") else None,
    )


def _store(store: operator.StoreSnapshot) -> StoreDiagnostics:
    slowest = _seconds(store.slowest_commit) if store.HasField("slowest_commit") else None
    return StoreDiagnostics(slowest_commit_seconds=slowest, failures=store.failures, is_failing=store.failing)


def _degraded(room: operator.DegradedSnapshot) -> DegradedDiagnostics:
    return DegradedDiagnostics(
        depth=room.depth,
        max_depth=room.max_depth,
        held=room.held,
        rescued=room.rescued,
        oldest_wait_seconds=_seconds(room.oldest_wait) if room.HasField("oldest_wait") else None,
        max_wait_seconds=_seconds(room.max_wait),
    )


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _word(enum: Any, number: int, prefix: str) -> str | None:
    # A newer admission may send a number without a name here; then it is as if it were not set.
    name: str = enum.Name(number).removeprefix(prefix).lower() if number in enum.values() else "unspecified"
    return None if name == "unspecified" else name
