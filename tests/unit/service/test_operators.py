"""OperatorService over a real channel, and what a snapshot becomes on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING

import grpc.aio
import pytest
from warmlane.admission.v1 import operator_service_pb2 as pb
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub
from warmlane.generation.v1 import generation_pb2

from admission.core.lanes import Availability, LaneSpec, LoadProgress, StartCause, StartFailure
from admission.core.tasks import Event, FallbackReason, LaneId, LaneMode, MemoryRecord, Model
from admission.engine_types import WorkView
from admission.service import convert
from admission.service.doors import Doors
from admission.service.operators import OperatorService
from admission.store.port import EventPage, EventQuery
from runtime.errors import ServiceError
from runtime.rpc_errors import service_error
from tests.harness.memory import MIB, worker
from tests.unit.service.conftest import Stack
from tests.unit.service.double import AT, TASK_ID, ControllerDouble, a_lane, a_queue

if TYPE_CHECKING:
    from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceAsyncStub


def _stub(stack: Stack) -> OperatorServiceAsyncStub:
    return OperatorServiceStub(stack.channel)


async def _error(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value)


async def test_snapshot_is_told_with_the_time_it_was_taken(stack: Stack) -> None:
    answer = await OperatorServiceStub(stack.channel).GetSnapshot(pb.GetSnapshotRequest(), timeout=5)

    assert answer.taken_at.ToDatetime() == stack.clock.now().utc.replace(tzinfo=None)
    assert (answer.controller_epoch, answer.degraded.depth, answer.counters.accepted) == (3, 2, 9)
    assert (answer.degraded.oldest_wait.ToMilliseconds(), answer.degraded.max_wait.seconds) == (1500, 30)


def test_busy_lane_is_shown_whole() -> None:
    spec = LaneSpec(
        lane_id=LaneId("degraded-pool"),
        mode=LaneMode.DEGRADED_SHARED,
        models=(Model("anisora"), Model("phr00t")),
        device="cpu",
        memory=worker(700, "anisora", "phr00t"),
    )
    lane = a_lane(
        spec=spec,
        availability=Availability.READY,
        warm=True,
        resident_model=Model("phr00t"),
        work=WorkView(task_id=TASK_ID, attempt=2, progress=40),
        finishing=WorkView(task_id=TASK_ID, attempt=1, progress=93),
        reason="",
        last_report_age_s=0.25,
        cold_starts=1,
        last_memory=MemoryRecord(figures={"residency_change": {"released_model": "anisora", "released_bytes": 5}}),
        is_drained=True,
        retired=((Model("anisora"), "resident"),),
    )

    [shown] = convert.snapshot(replace(ControllerDouble().snapshot(), lanes=(lane,)), AT).lanes
    assert (shown.finishing.task_id, shown.finishing.attempt, shown.finishing.progress) == (TASK_ID, 1, 93)

    assert (shown.lane_id, list(shown.models), shown.device) == ("degraded-pool", ["anisora", "phr00t"], "cpu")
    assert (shown.lane_mode, shown.availability) == (task_pb2.LANE_MODE_DEGRADED_SHARED, pb.AVAILABILITY_READY)
    assert shown.drained
    assert (shown.gpu, shown.memory_budget_bytes) == ("Simulated 1 GiB", 700 * MIB)
    assert [(one.model, one.placement) for one in shown.retired_placements] == [("anisora", "resident")]
    assert (shown.task_id, shown.attempt, shown.progress, shown.resident_model) == (TASK_ID, 2, 40, "phr00t")
    assert (shown.last_report_age.ToMilliseconds(), shown.last_memory.residency_change.released_bytes) == (250, 5)


def test_lane_that_cannot_become_warm_is_shown_with_its_load_and_why() -> None:
    lane = a_lane(
        load=LoadProgress(model="anisora", stage="loading the VAE", read_bytes=3, total_bytes=4),
        start_failure=StartFailure(cause=StartCause.WEIGHTS_MISSING, reason="no folder", attempts=2, next_attempt_at=AT),
    )

    shown = convert.lane(lane)

    assert (shown.load.model, shown.load.stage, shown.load.read_bytes, shown.load.total_bytes) == ("anisora", "loading the VAE", 3, 4)
    assert shown.start_failure.cause == generation_pb2.START_FAILURE_CAUSE_WEIGHTS_MISSING
    assert (shown.start_failure.reason, shown.start_failure.attempts) == ("no folder", 2)
    assert shown.start_failure.next_attempt_at.ToDatetime(UTC) == AT


def test_lane_that_was_never_heard_of_has_no_figures() -> None:
    shown = convert.snapshot(replace(ControllerDouble().snapshot(), lanes=(a_lane(),), queues=(a_queue(),)), AT)

    assert not any(shown.lanes[0].HasField(name) for name in ("last_report_age", "last_memory", "load", "start_failure"))
    assert (shown.lanes[0].gpu, shown.lanes[0].memory_budget_bytes) == ("", 0)
    assert (shown.lanes[0].reason, shown.lanes[0].task_id, shown.lanes[0].drained) == ("never seen", "", False)
    [queue] = shown.queues
    assert (queue.depth, queue.max_depth, queue.running, queue.fallback_reason, queue.manual_fallback) == (3, 25, 1, 0, False)
    assert not any(queue.HasField(name) for name in ("fallback_since", "quota_denied_until", "predicted_wait"))


def test_queue_is_shown_whole_when_its_model_goes_the_degraded_way() -> None:
    queue = a_queue(
        fallback_reason=FallbackReason.QUOTA, fallback_since=AT, is_fallback_manual=True, quota_denied_until=AT, predicted_wait_s=1.5
    )

    shown = convert.queue(queue)

    assert (shown.fallback_reason, shown.manual_fallback) == (task_pb2.FALLBACK_REASON_QUOTA, True)
    assert shown.fallback_since == shown.quota_denied_until == convert.timestamp(AT)
    assert shown.predicted_wait.ToMilliseconds() == 1500


@pytest.mark.parametrize("resume", [False, True])
async def test_lane_is_drained_or_resumed_when_an_operator_says_so(stack: Stack, resume: bool) -> None:
    answer = await _stub(stack).DrainLane(pb.DrainLaneRequest(lane_id="lane-anisora", resume=resume), timeout=5)

    assert (stack.controller.told, answer.lane.drained) == ([("lane-anisora", not resume)], not resume)


async def test_lane_is_not_found_when_none_of_that_name_is_known(stack: Stack) -> None:
    error = await _error(_stub(stack).DrainLane(pb.DrainLaneRequest(lane_id="lane-x"), timeout=5))

    assert error.code == "lane_not_found"


async def test_model_goes_to_the_pool_when_an_operator_says_so(stack: Stack) -> None:
    answer = await _stub(stack).SetFallback(pb.SetFallbackRequest(model="anisora", enabled=True), timeout=5)

    assert (stack.controller.told, answer.queue.manual_fallback) == ([("anisora", True)], True)


async def test_models_are_listed_when_an_operator_names_another(stack: Stack) -> None:
    errors = [
        await _error(_stub(stack).SetFallback(pb.SetFallbackRequest(model="pony"), timeout=5)),
        await _error(_stub(stack).ReportCapacity(pb.ReportCapacityRequest(model="pony", capacity=pb.CAPACITY_RESTORED), timeout=5)),
    ]

    for error in errors:
        [violation] = error.violations
        assert (error.code, violation.field, violation.message) == ("validation_error", "model", "must be one of anisora, phr00t")
    assert stack.controller.told == []


async def test_denial_reaches_the_engine_with_its_end(stack: Stack) -> None:
    request = pb.ReportCapacityRequest(model="phr00t", capacity=pb.CAPACITY_DENIED, reason="no A10G in the region")
    request.valid_for.FromSeconds(600)

    answer = await _stub(stack).ReportCapacity(request, timeout=5)

    assert stack.controller.told == [("phr00t", 600.0, "no A10G in the region")]
    assert answer.queue.HasField("quota_denied_until")


async def test_restored_quota_needs_no_end(stack: Stack) -> None:
    await _stub(stack).ReportCapacity(pb.ReportCapacityRequest(model="phr00t", capacity=pb.CAPACITY_RESTORED), timeout=5)

    assert stack.controller.told == [("phr00t", None, "")]


@pytest.mark.parametrize("valid_for_s", [None, 0, 0.5, -1, 24 * 3600 + 1])
async def test_denial_is_refused_when_it_has_no_sensible_end(stack: Stack, valid_for_s: float | None) -> None:
    request = pb.ReportCapacityRequest(model="phr00t", capacity=pb.CAPACITY_DENIED)
    if valid_for_s is not None:
        request.valid_for.FromMilliseconds(round(valid_for_s * 1000))

    error = await _error(_stub(stack).ReportCapacity(request, timeout=5))

    assert [violation.field for violation in error.violations] == ["valid_for"]


@pytest.mark.parametrize("reason", ["x" * 257, "two\nlines"])
async def test_report_is_refused_when_its_reason_is_no_short_line(stack: Stack, reason: str) -> None:
    request = pb.ReportCapacityRequest(model="phr00t", reason=reason)

    error = await _error(_stub(stack).ReportCapacity(request, timeout=5))

    assert [violation.field for violation in error.violations] == ["capacity", "reason"]


async def test_events_come_page_by_page_until_the_engine_ends_them(stack: Stack) -> None:
    memory = MemoryRecord(figures={"peak_allocated_bytes": 2**40})
    event = Event(event_type="memory_record", created_at=AT, task_id=TASK_ID, memory=memory, sequence=8, model=Model("anisora"))
    for page in (EventPage(events=(event,), last_sequence=8), EventPage(events=(), last_sequence=11), None):
        stack.controller.pages.put_nowait(page)
    request = pb.WatchEventsRequest(after_sequence=7, event_types=["memory_record"], task_id=TASK_ID, lane_id="lane-x", no_follow=True)

    pages = [page async for page in _stub(stack).WatchEvents(request, timeout=5)]

    [(query, only_new, follow)] = stack.controller.event_queries
    expected = EventQuery(after=7, event_types=frozenset({"memory_record"}), task_id=TASK_ID, lane_id=LaneId("lane-x"))
    assert query == expected
    assert (query.limit, only_new, follow) == (256, False, False)
    assert [[event.sequence for event in page.events] for page in pages] == [[8], []]
    assert [page.last_sequence for page in pages] == [8, 11]
    assert (pages[0].events[0].memory.peak_allocated_bytes, pages[0].events[0].model) == (2**40, "anisora")


async def test_sequence_is_ignored_when_only_new_events_are_wanted(stack: Stack) -> None:
    stack.controller.pages.put_nowait(None)

    assert [page async for page in _stub(stack).WatchEvents(pb.WatchEventsRequest(only_new=True, after_sequence=-1), timeout=5)] == []

    [(query, only_new, follow)] = stack.controller.event_queries
    assert (query.task_id, query.lane_id, query.event_types, only_new, follow) == (None, None, frozenset(), True, True)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.WatchEventsRequest(after_sequence=-1), "after_sequence"),
        (pb.WatchEventsRequest(event_types=["Not A Name"]), "event_types"),
        (pb.WatchEventsRequest(event_types=[f"name_{number}" for number in range(65)]), "event_types"),
        (pb.WatchEventsRequest(task_id="a/b"), "task_id"),
    ],
)
async def test_watch_of_events_is_refused_when_its_filter_makes_no_sense(stack: Stack, request_: pb.WatchEventsRequest, field: str) -> None:
    error = await _error(_stub(stack).WatchEvents(request_, timeout=5).read())

    assert [violation.field for violation in error.violations] == [field]


async def test_watch_of_events_is_recycled_when_it_is_old(stack: Stack) -> None:
    doors = Doors()
    doors.open()
    service = OperatorService(controller=stack.controller, clock=stack.clock, doors=doors, stream_life_s=0.05)

    with pytest.raises(ServiceError) as caught:
        async for _ in service.WatchEvents(pb.WatchEventsRequest(), None):
            pass

    assert caught.value.code == "stream_recycled"
    assert stack.controller.left.is_set()


async def test_stream_says_that_it_stands_when_it_follows(stack: Stack) -> None:
    call = _stub(stack).WatchEvents(pb.WatchEventsRequest(after_sequence=7), timeout=30)

    assert await call.read() == pb.WatchEventsResponse(last_sequence=7)
    await asyncio.wait_for(stack.controller.begun.wait(), 5)
    call.cancel()
    await asyncio.wait_for(stack.controller.left.wait(), 5)


async def test_watch_of_events_ends_when_admission_stops(stack: Stack) -> None:
    call = _stub(stack).WatchEvents(pb.WatchEventsRequest(), timeout=30)
    await call.read()
    reading = asyncio.ensure_future(_error(call.read()))
    await asyncio.wait_for(stack.controller.begun.wait(), 5)

    stack.doors.close()

    assert (await reading).code == "service_unavailable"
    assert stack.controller.left.is_set()
