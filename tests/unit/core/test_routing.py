"""Where a request goes: its own queue, the degraded way, or away; rescues; what nobody serves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admission.core.commands import OverloadCause
from admission.core.events import LaneDetached
from admission.core.tasks import (
    FailureCode,
    FallbackReason,
    LaneMode,
    TaskState,
)
from tests.harness.core import ANISORA, DONE, PHR00T, World


def test_request_is_accepted_into_its_queue_when_a_dedicated_lane_is_ready() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    assert world.accepted == [task_id]
    assert world.task(task_id).lane_mode is LaneMode.DEDICATED
    lease = world.lease(lane)
    assert lease is not None
    assert (lease.task_id, lease.attempt) == (task_id, 1)


def test_request_is_held_when_no_lane_of_its_model_is_ready() -> None:
    world = World()
    world.attach("lane-phr00t", PHR00T)
    task_id = world.submit(ANISORA)
    assert world.accepted == []
    assert list(world.core.state.held) == [task_id]


def test_held_request_is_accepted_when_the_pool_takes_it() -> None:
    world = World()
    task_id = world.submit()
    world.attach("pool", ANISORA, PHR00T, pool=True)
    task = world.task(task_id)
    assert world.accepted == [task_id]
    assert (task.lane_mode, task.fallback_reason) == (LaneMode.DEGRADED_SHARED, FallbackReason.CAPACITY)
    assert ("fallback_activated", "capacity") in world.events


def test_held_request_turns_dedicated_when_its_own_lane_becomes_ready_first() -> None:
    world = World()
    task_id = world.submit()
    world.attach("lane-anisora", ANISORA)
    task = world.task(task_id)
    assert (task.lane_mode, task.fallback_reason) == (LaneMode.DEDICATED, None)


def test_26th_held_request_is_refused_by_depth() -> None:
    world = World()
    held = [world.submit() for _ in range(25)]
    refused = world.submit()
    assert set(world.overloaded) == {refused}
    reply = world.overloaded[refused]
    assert (reply.cause, reply.depth, reply.max_depth) == (OverloadCause.DEPTH, 25, 25)
    assert list(world.core.state.held) == held


def test_wait_is_refused_at_exactly_30_s_and_not_before() -> None:
    world = World()
    task_id = world.submit()
    world.advance(29.999)
    assert world.overloaded == {}
    world.advance(0.001)
    assert world.overloaded[task_id].cause is OverloadCause.WAIT
    assert world.overloaded[task_id].waited_s == pytest.approx(30.0)


def test_expiry_wins_when_a_lane_comes_at_exactly_the_limit() -> None:
    world = World()
    task_id = world.submit()
    world.elapsed_s = 30.0
    world.attach("lane-anisora", ANISORA)
    assert task_id in world.overloaded
    assert world.accepted == []


def test_place_is_free_at_once_when_a_held_caller_leaves() -> None:
    world = World()
    first, *_ = [world.submit() for _ in range(25)]
    world.leave(first)
    world.submit()
    assert world.overloaded == {}
    assert world.core.state.degraded_depth == 25


def test_request_falls_back_when_the_queue_of_its_model_is_full() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    for _ in range(1 + 25):  # one in work, 25 waiting
        world.submit()
    task_id = world.submit()
    assert task_id in world.core.state.held
    assert world.core.state.tasks[task_id].fallback_reason is FallbackReason.CAPACITY


def test_request_falls_back_when_the_predicted_wait_reaches_15_minutes() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.submit()
    world.works(lane)
    world.ends(lane, replace(DONE, render_s=900.0))
    world.submit()  # in work: 900 s predicted
    task_id = world.submit()
    assert task_id in world.core.state.held


def test_callers_take_turns_when_one_of_them_has_many_tasks() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.submit(owner="busy")
    many = [world.submit(owner="busy") for _ in range(3)]
    one = world.submit(owner="other")
    order = []
    for _ in range(4):
        world.works(lane)
        world.ends(lane)
        lease = world.lease(lane)
        assert lease is not None
        order.append(lease.task_id)
    assert order == [many[0], one, many[1], many[2]]


def test_accepted_task_is_rescued_by_the_pool_when_its_model_has_no_ready_lane_for_30_s() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.works(lane)
    pool = world.attach("pool", ANISORA, PHR00T, pool=True)
    # The lane falls silent: cold at 10 s, its lease lost at 30 s, and at 40 s nobody has served the model for 30 s.
    for _ in range(8):
        world.advance(5.0)
        world.report(pool)
    lease = world.lease(pool)
    assert lease is not None
    assert lease.task_id == first
    assert second in world.core.state.rescued
    assert world.task(first).lane_mode is LaneMode.DEGRADED_SHARED


def test_at_most_five_tasks_are_rescued_at_a_time() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    for _ in range(12):
        world.submit()
    world.works(lane)
    world.advance(60.0)
    assert len(world.core.state.rescued) == 5


def test_rescued_task_goes_back_when_a_lane_of_its_model_takes_it() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.advance(75.0)
    assert task_id in world.core.state.rescued
    world.attach("lane-2", ANISORA)
    assert task_id not in world.core.state.rescued
    assert world.task(task_id).lane_mode is LaneMode.DEDICATED


def test_accepted_task_fails_with_not_served_when_nobody_starts_it_for_an_hour() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.submit()
    waiting = world.submit()
    world.handle(LaneDetached(lane_id=lane, session=1))
    world.advance(3599.0)
    assert world.task(waiting).state is TaskState.QUEUED
    world.advance(1.0)
    task = world.task(waiting)
    assert task.failure is not None
    assert task.failure.code is FailureCode.NOT_SERVED


def test_draining_lane_gets_nothing_new() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.report(lane, draining=True)
    task_id = world.submit()
    assert task_id in world.core.state.held
