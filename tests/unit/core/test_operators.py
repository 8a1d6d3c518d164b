"""What operators say: drained lanes, manual fallback, denied quotas; all of it across restarts."""

from __future__ import annotations

from admission.core.availability import availability
from admission.core.events import CapacityReported, FallbackSet, LaneDrainSet
from admission.core.lanes import Availability, LaneSpec
from admission.core.tasks import FallbackReason, LaneId, LaneMode, TaskState
from tests.harness.core import ANISORA, PHR00T, World

LANE = LaneSpec(lane_id=LaneId("lane-anisora"), mode=LaneMode.DEDICATED, models=(ANISORA,))


def _drain(world: World, lane: LaneId, *, drained: bool = True) -> None:
    world.handle(LaneDrainSet(lane_id=lane, drained=drained))


def _fallback(world: World, *, enabled: bool = True) -> None:
    world.handle(FallbackSet(model=ANISORA, enabled=enabled))


def _deny(world: World, seconds: float | None = 100.0) -> None:
    world.handle(CapacityReported(model=ANISORA, denied_for_s=seconds, reason="the provider says no"))


def _said(world: World, event_type: str) -> list[tuple[str, str]]:
    return [(event.value, event.reason) for event in world.kept if event.event_type == event_type]


def test_drained_lane_finishes_its_work_and_gets_no_more() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first = world.submit()
    world.works(lane)
    second = world.submit()
    _drain(world, lane)
    assert world.wishes[lane].drain
    world.ends(lane)
    assert world.task(first).state is TaskState.DONE
    assert world.task(second).state is TaskState.QUEUED


def test_drained_lane_gets_work_again_when_it_is_resumed() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    _drain(world, lane)
    waiting = world.submit()
    assert waiting in world.core.state.held
    _drain(world, lane, drained=False)
    assert not world.wishes[lane].drain
    assert world.task(waiting).state is TaskState.LEASED
    assert [event.event_type for event in world.kept if "drain" in event.event_type or "resume" in event.event_type] == [
        "lane_drained",
        "lane_resumed",
    ]


def test_lane_stays_drained_when_admission_and_the_lane_restart() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    _drain(world, lane)
    world.restart([LANE])
    world.attach("lane-anisora", ANISORA, boot="boot-2")
    task_id = world.submit()
    assert task_id in world.core.state.held


def test_drain_said_twice_or_of_an_unknown_lane_changes_nothing() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    _drain(world, lane)
    before = len(world.kept)
    _drain(world, lane)
    _drain(world, LaneId("nobody"))
    assert len(world.kept) == before


def test_requests_go_the_degraded_way_with_the_reason_when_fallback_is_on() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    pool = world.attach("pool", ANISORA, PHR00T, pool=True)
    _fallback(world)
    task_id = world.submit()
    task = world.task(task_id)
    assert (task.lane_id, task.lane_mode, task.fallback_reason) == (pool, LaneMode.DEGRADED_SHARED, FallbackReason.MANUAL)
    assert world.lease(lane) is None


def test_lane_finishes_what_it_works_on_when_fallback_is_turned_on() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    running = world.submit()
    queued = world.submit()
    world.works(lane)
    _fallback(world)
    world.ends(lane)
    assert world.task(running).state is TaskState.DONE
    assert world.task(queued).state is TaskState.QUEUED
    _fallback(world, enabled=False)
    assert world.task(queued).state is TaskState.LEASED


def test_queued_tasks_are_rescued_by_the_pool_when_fallback_stays_on() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.submit()
    queued = world.submit()
    world.works(lane)
    _fallback(world)
    world.attach("pool", ANISORA, PHR00T, pool=True)
    for _ in range(7):
        world.advance(5.0)
        world.works(lane)
        world.report(LaneId("pool"))
    task = world.task(queued)
    assert (task.lane_mode, task.fallback_reason) == (LaneMode.DEGRADED_SHARED, FallbackReason.MANUAL)


def test_fallback_is_still_on_after_a_restart() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    _fallback(world)
    world.restart([LANE])
    world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    assert world.core.state.tasks[task_id].fallback_reason is FallbackReason.MANUAL


def test_reason_is_quota_while_it_is_denied_and_capacity_after_it_expired() -> None:
    world = World()
    _deny(world, 100.0)
    task_id = world.submit()
    assert world.core.state.tasks[task_id].fallback_reason is FallbackReason.QUOTA
    world.advance(99.999)
    assert world.core.state.is_quota_denied(ANISORA, world.now().monotonic_s)
    world.advance(0.001)
    later = world.submit()
    assert world.core.state.tasks[later].fallback_reason is FallbackReason.CAPACITY
    assert _said(world, "quota_restored") == [("", "the report expired")]
    assert world.policies[ANISORA].quota_denied_until is None


def test_denied_quota_ends_when_it_is_restored() -> None:
    world = World()
    _deny(world)
    _deny(world, None)
    task_id = world.submit()
    assert world.core.state.tasks[task_id].fallback_reason is FallbackReason.CAPACITY
    world.advance(200.0)
    assert len(_said(world, "quota_restored")) == 1


def test_denial_holds_from_its_newest_report_when_it_is_repeated() -> None:
    world = World()
    _deny(world, 100.0)
    world.advance(60.0)
    _deny(world, 100.0)
    world.advance(60.0)
    assert world.core.state.is_quota_denied(ANISORA, world.now().monotonic_s)
    assert len(_said(world, "quota_denied")) == 1


def test_denial_keeps_its_end_when_admission_restarts() -> None:
    world = World()
    _deny(world, 100.0)
    world.advance(60.0)
    world.restart([])
    world.advance(39.9)
    assert world.core.state.is_quota_denied(ANISORA, world.now().monotonic_s)
    world.advance(0.2)
    assert not world.core.state.is_quota_denied(ANISORA, world.now().monotonic_s)


def test_ready_lane_serves_although_the_quota_is_denied() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    _deny(world)
    task_id = world.submit()
    assert world.task(task_id).lane_id == lane


def test_lane_out_of_contact_is_unavailable_while_its_quota_is_denied() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    _deny(world)
    world.advance(11.0)
    state = world.core.state
    assert availability(state, state.lanes[lane], world.now().monotonic_s)[0] is Availability.UNAVAILABLE
    _deny(world, None)
    assert availability(state, state.lanes[lane], world.now().monotonic_s)[0] is Availability.COLD


def test_lane_is_forgotten_when_nobody_heard_of_it_for_a_day() -> None:
    world = World()
    lane = world.attach("lane-made-up", ANISORA)
    world.advance(43_200.0)
    world.report(lane)
    world.advance(86_399.0)
    assert lane in world.core.state.lanes
    world.advance(1.0)
    assert lane not in world.core.state.lanes
    assert lane not in world.lanes
    assert ("lane_forgotten", "") in world.events


def test_lane_known_from_the_store_only_is_forgotten_a_day_after_the_start() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    world.restart([LANE])
    world.advance(86_400.0)
    assert not world.core.state.lanes
