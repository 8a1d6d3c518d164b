"""How long and why requests went the degraded way, what was refused, and how held requests come back to a queue that opens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admission.core.commands import OverloadCause
from admission.core.limits import Limits
from admission.core.tasks import FallbackReason, LaneMode, TaskState
from tests.harness.core import ANISORA, PHR00T, World


def _said(world: World, event_type: str) -> list[tuple[str | None, str, str]]:
    return [(event.model, event.value, event.reason) for event in world.kept if event.event_type == event_type]


def test_fallback_of_a_model_is_recorded_with_reason_and_duration() -> None:
    world = World()
    world.submit()
    world.submit()
    assert _said(world, "model_fallback_started") == [(ANISORA, ANISORA, "capacity")]
    world.advance(12.5)
    world.attach("lane-anisora", ANISORA)
    assert _said(world, "model_fallback_ended") == [(ANISORA, "12.500", "capacity")]
    assert not world.core.state.fallbacks


def test_refusals_are_recorded_as_one_event_for_each_model_and_cause() -> None:
    world = World()
    for _ in range(25):
        world.submit()
    written = len(world.kept)
    for _ in range(35):
        world.submit(PHR00T)
    assert len(world.kept) == written + 1, "only that phr00t falls back; not one event for each refusal"
    world.advance(10.0)
    assert _said(world, "queue_overloaded") == [(PHR00T, "35", "depth")]
    world.advance(30.0)
    assert _said(world, "queue_timeout") == [(ANISORA, "25", "wait")]


def test_held_requests_are_accepted_in_their_order_when_a_lane_of_their_model_gets_ready() -> None:
    world = World()
    first, second, third = (world.submit() for _ in range(3))
    other = world.submit(PHR00T)
    world.advance(20.0)
    lane = world.attach("lane-anisora", ANISORA)
    assert world.accepted == [first, second, third]
    assert [world.task(task_id).lane_mode for task_id in (first, second, third)] == [LaneMode.DEDICATED, None, None]
    assert world.task(first).fallback_reason is None
    assert list(world.core.state.held) == [other]
    later = world.submit()
    for expected in (first, second, third, later):
        lease = world.lease(lane)
        assert lease is not None
        assert lease.task_id == expected
        world.ends(lane)


def test_held_request_takes_the_place_that_gets_free_in_its_queue_before_a_new_one() -> None:
    world = World(Limits(queue_depth=2))
    lane = world.attach("lane-anisora", ANISORA)
    for _ in range(3):
        world.submit()
    held = world.submit()
    assert held in world.core.state.held
    world.ends(lane)
    assert world.task(held).state is TaskState.QUEUED
    newcomer = world.submit()
    assert newcomer in world.core.state.held


def test_resubmitted_request_waits_only_for_the_rest() -> None:
    world = World()
    task_id = world.submit(waited_s=20.0)
    world.advance(9.999)
    assert task_id not in world.overloaded
    world.advance(0.001)
    assert world.overloaded[task_id].cause is OverloadCause.WAIT
    assert world.overloaded[task_id].waited_s == pytest.approx(30.0)


def test_resubmitted_request_goes_before_those_that_waited_less() -> None:
    world = World()
    fresh = world.submit()
    older = world.submit(waited_s=10.0)
    oldest = world.submit(waited_s=20.0)
    assert list(world.core.state.held) == [oldest, older, fresh]
    pool = world.attach("pool", ANISORA, PHR00T, pool=True)
    lease = world.lease(pool)
    assert lease is not None
    assert lease.task_id == oldest


def test_resubmitted_request_is_refused_at_once_when_its_wait_is_over() -> None:
    world = World()
    task_id = world.submit(waited_s=30.0)
    assert world.overloaded[task_id].cause is OverloadCause.WAIT


def test_resubmitted_request_is_accepted_when_a_lane_is_ready_however_long_it_waited() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    task_id = world.submit(waited_s=30.0)
    assert world.task(task_id).state is TaskState.LEASED


def test_lease_that_the_lane_never_took_up_does_not_count_as_a_lost_lane() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    queued_at = world.task(task_id).queued_at
    for boot in range(5):
        world.advance(1.0)
        world.attach("lane-anisora", ANISORA, boot=f"boot-{boot + 2}")
    task = world.task(task_id)
    assert (task.state, task.attempt, task.lost_lanes, task.queued_at) == (TaskState.LEASED, 6, 0, queued_at)
    world.works(lane)
    world.attach("lane-anisora", ANISORA, boot="boot-last")
    assert world.task(task_id).lost_lanes == 1


def test_task_that_no_lane_ever_takes_up_fails_an_hour_after_its_acceptance() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    for boot in range(400):
        world.advance(9.5)
        world.attach("lane-anisora", ANISORA, boot=f"boot-{boot + 2}")
        if world.task(task_id).state is TaskState.FAILED:
            break
    task = world.task(task_id)
    assert task.failure is not None
    assert task.failure.code == "not_served"
    assert world.elapsed_s <= 3610.0


def test_lease_goes_back_at_once_when_its_lane_says_that_it_is_being_stopped() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.report(lane, seen=0, draining=True)
    task = world.task(task_id)
    assert (task.state, task.lost_lanes) == (TaskState.QUEUED, 0)


def test_lease_stays_when_a_lane_that_is_being_stopped_works_on_it() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    lease = world.lease(lane)
    report = world.core.state.lanes[lane].report
    assert lease is not None
    assert report is not None
    world.report(lane, work=report.work, draining=True)
    assert world.task(task_id).state is TaskState.LEASED


def test_cold_starts_are_recorded_once_each() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.report(lane, cold_starts=1)
    world.report(lane, cold_starts=1)
    world.report(lane, cold_starts=2)
    assert [value for _, value, _ in _said(world, "cold_start")] == ["1", "2"]
    spec = world.core.state.lanes[lane].spec
    world.restart([spec])
    world.attach("lane-anisora", ANISORA)
    report = world.core.state.lanes[lane].report
    assert report is not None
    world.core.state.lanes[lane].report = replace(report, cold_starts=2)
    world.report(lane, cold_starts=2)
    assert len(_said(world, "cold_start")) == 2


def test_every_end_of_a_task_is_recorded_with_its_state_and_reason() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    done, cancelled = world.submit(), world.submit()
    world.cancel(cancelled)
    world.ends(lane)
    ended = {event.task_id: (event.value, event.reason) for event in world.kept if event.event_type == "ended"}
    assert ended == {done: ("done", ""), cancelled: ("cancelled", "cancelled")}


def test_reason_of_a_request_is_the_one_that_held_when_it_came() -> None:
    world = World()
    task_id = world.submit()
    pool = world.attach("pool", ANISORA, PHR00T, pool=True)
    task = world.task(task_id)
    assert (task.lane_id, task.fallback_reason) == (pool, FallbackReason.CAPACITY)
