"""OperatorService over a real channel, and what a snapshot becomes on the wire."""

from __future__ import annotations

from dataclasses import replace

from warmlane.admission.v1 import operator_service_pb2 as pb
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

from admission.core.lanes import Availability, LaneSpec
from admission.core.tasks import LaneId, LaneMode, MemoryRecord, Model
from admission.engine_types import LaneView, QueueView, WorkView
from admission.service import convert
from tests.unit.service.conftest import Stack
from tests.unit.service.double import AT, TASK_ID, ControllerDouble


async def test_snapshot_is_told_with_the_time_it_was_taken(stack: Stack) -> None:
    answer = await OperatorServiceStub(stack.channel).GetSnapshot(pb.GetSnapshotRequest(), timeout=5)

    assert answer.taken_at.ToDatetime() == stack.clock.now().utc.replace(tzinfo=None)
    assert (answer.controller_epoch, answer.degraded.depth, answer.counters.accepted) == (3, 2, 9)
    assert (answer.degraded.oldest_wait.ToMilliseconds(), answer.degraded.max_wait.seconds) == (1500, 30)


def test_busy_lane_is_shown_whole() -> None:
    lane = LaneView(
        spec=LaneSpec(
            lane_id=LaneId("degraded-pool"),
            mode=LaneMode.DEGRADED_SHARED,
            models=(Model("anisora"), Model("phr00t")),
            device="cpu",
        ),
        availability=Availability.READY,
        warm=True,
        resident_model=Model("phr00t"),
        work=WorkView(task_id=TASK_ID, attempt=2, progress=40),
        reason="",
        last_report_age_s=0.25,
        cold_starts=1,
        last_memory=MemoryRecord(figures={"residency_change": {"released_model": "anisora", "released_bytes": 5}}),
    )

    [shown] = convert.snapshot(replace(ControllerDouble().snapshot(), lanes=(lane,)), AT).lanes

    assert (shown.lane_id, list(shown.models), shown.device) == ("degraded-pool", ["anisora", "phr00t"], "cpu")
    assert (shown.lane_mode, shown.availability) == (task_pb2.LANE_MODE_DEGRADED_SHARED, pb.AVAILABILITY_READY)
    assert (shown.task_id, shown.attempt, shown.progress, shown.resident_model) == (TASK_ID, 2, 40, "phr00t")
    assert (shown.last_report_age.ToMilliseconds(), shown.last_memory.residency_change.released_bytes) == (250, 5)


def test_lane_that_was_never_heard_of_has_no_figures() -> None:
    lane = LaneView(
        spec=LaneSpec(lane_id=LaneId("lane-anisora"), mode=LaneMode.DEDICATED, models=(Model("anisora"),)),
        availability=Availability.UNAVAILABLE,
        warm=False,
        resident_model=None,
        work=None,
        reason="never seen",
        last_report_age_s=None,
        cold_starts=0,
        last_memory=None,
    )
    queue = QueueView(model=Model("anisora"), depth=3, max_depth=25, served=False, running=1)

    shown = convert.snapshot(replace(ControllerDouble().snapshot(), lanes=(lane,), queues=(queue,)), AT)

    assert not any(shown.lanes[0].HasField(name) for name in ("last_report_age", "last_memory"))
    assert (shown.lanes[0].reason, shown.lanes[0].task_id) == ("never seen", "")
    assert (shown.queues[0].depth, shown.queues[0].max_depth, shown.queues[0].running) == (3, 25, 1)
