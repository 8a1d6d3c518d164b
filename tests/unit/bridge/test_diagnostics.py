"""Admission's snapshot as the admin paths show it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1.task_pb2 import FallbackReason, LaneMode

from http_bridge.diagnostics import diagnostics, is_everything_served, ready_lanes
from tests.harness.access_double import stamp

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
READY, COLD = operator.AVAILABILITY_READY, operator.AVAILABILITY_COLD


def _lane(lane_id: str, *models: str, availability: operator.Availability.ValueType = READY) -> operator.LaneSnapshot:
    mode = LaneMode.LANE_MODE_DEDICATED if len(models) == 1 else LaneMode.LANE_MODE_DEGRADED_SHARED
    return operator.LaneSnapshot(lane_id=lane_id, models=models, lane_mode=mode, availability=availability)


def _snapshot(*lanes: operator.LaneSnapshot, **queue: object) -> operator.GetSnapshotResponse:
    queues = [operator.QueueSnapshot(model="anisora", **queue), operator.QueueSnapshot(model="phr00t")]  # type: ignore[arg-type]
    return operator.GetSnapshotResponse(taken_at=stamp(NOW), lanes=lanes, queues=queues)


def test_everything_that_admission_counts_is_shown() -> None:
    snapshot = _snapshot(depth=3, max_depth=25, running=1)
    snapshot.degraded.CopyFrom(operator.DegradedSnapshot(depth=7, max_depth=25, held=5, rescued=2))
    snapshot.degraded.oldest_wait.FromMilliseconds(12_500)
    snapshot.degraded.max_wait.FromSeconds(30)
    snapshot.counters.CopyFrom(operator.Counters(accepted=9, fallbacks=8, overloaded_depth=6, overloaded_wait=4, lanes_lost=1))
    found = diagnostics(snapshot)
    assert (found.queue_depth, found.queue_overloaded_count, found.queue_timeout_count, found.fallback_count) == (7, 6, 4, 8)
    assert (found.accepted_count, found.lane_lost_count, found.taken_at) == (9, 1, NOW)
    assert (found.degraded.held, found.degraded.rescued, found.degraded.oldest_wait_seconds, found.degraded.max_wait_seconds) == (
        5,
        2,
        12.5,
        30,
    )
    assert [(queue.model, queue.depth, queue.running) for queue in found.queues] == [("anisora", 3, 1), ("phr00t", 0, 0)]


def test_lane_is_shown_with_its_memory_and_the_fallback_of_its_model() -> None:
    lane = _lane("lane-anisora", "anisora", availability=COLD)
    lane.MergeFrom(operator.LaneSnapshot(warm=True, resident_model="anisora", cold_starts=3, reason="It loads.", task_id="t" * 32))
    lane.last_memory.allocated_bytes, lane.last_memory.placement = 0, "streamed"
    snapshot = _snapshot(
        lane,
        _lane("degraded-pool", "anisora", "phr00t"),
        fallback_reason=FallbackReason.FALLBACK_REASON_QUOTA,
        fallback_since=stamp(NOW - timedelta(seconds=90)),
    )
    shown, pool = diagnostics(snapshot).lanes
    assert (shown.lane, shown.model, shown.mode, shown.availability) == ("lane-anisora", "anisora", "dedicated", "cold")
    assert (shown.warm, shown.resident_model, shown.cold_start_count, shown.reason, shown.is_busy) == (
        True,
        "anisora",
        3,
        "It loads.",
        True,
    )
    assert (shown.fallback_reason, shown.fallback_seconds) == ("quota", 90.0)
    # What was measured as nothing is 0, what was not measured is null.
    assert shown.memory is not None
    assert (shown.memory.allocated_bytes, shown.memory.reserved_bytes, shown.memory.placement) == (0, None, "streamed")
    assert (pool.model, pool.models, pool.mode, pool.fallback_reason, pool.memory) == (
        None,
        ["anisora", "phr00t"],
        "degraded_shared",
        "quota",
        None,
    )


@pytest.mark.parametrize(
    ("lanes", "queue", "is_served", "ready"),
    [
        ([], {}, False, 0),
        ([_lane("a", "anisora")], {}, False, 1),
        ([_lane("a", "anisora"), _lane("b", "phr00t")], {}, True, 2),
        ([_lane("a", "anisora"), _lane("b", "phr00t", availability=COLD)], {}, False, 1),
        ([_lane("pool", "anisora", "phr00t")], {}, True, 1),
        # Its own lanes get nothing while an operator sends the model to the pool.
        ([_lane("a", "anisora"), _lane("b", "phr00t")], {"manual_fallback": True}, False, 2),
        ([_lane("a", "anisora"), _lane("pool", "anisora", "phr00t")], {"manual_fallback": True}, True, 2),
    ],
)
def test_everything_is_served_when_every_model_has_a_ready_lane(
    lanes: list[operator.LaneSnapshot], queue: dict[str, object], is_served: bool, ready: int
) -> None:
    found = diagnostics(_snapshot(*lanes, **queue))
    assert (is_everything_served(found), ready_lanes(found)) == (is_served, ready)


def test_nothing_is_served_when_admission_knows_no_model() -> None:
    assert not is_everything_served(diagnostics(operator.GetSnapshotResponse()))
