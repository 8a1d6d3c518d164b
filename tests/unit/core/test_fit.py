"""Step 2 of the design: what is refused, where what goes, and what a client may ask for.

A clip of 512x512x9 has 3072 tokens and takes 300 MiB beside the weights, which are 600 MiB resident and 200 MiB streamed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.core import refusals
from admission.core.commands import RefusalCode
from admission.core.events import RequestTurnedAway
from admission.core.fit import FitRules, Fits
from admission.core.tasks import FailureCode, LaneMode, TaskId, TaskState
from runtime.fit.cost import Shape
from runtime.fit.predict import choose
from tests.harness.core import ANISORA, DONE, PHR00T, World
from tests.harness.memory import MIB, RESIDENT, STREAMED, ladder, record, worker

SMALL, LARGE, HUGE = (256, 256, 9), (512, 512, 9), (1024, 1024, 81)
# Streamed: 275, 500 and 8600 MiB; resident: 675, 900 and 9000.


def test_lease_names_the_fastest_placement_that_fits_when_a_lane_has_said_what_it_has() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA, memory=worker(700, ANISORA))
    world.submit(size=SMALL)
    lease = world.lease(lane)
    assert lease is not None
    assert (lease.placement, lease.predicted_peak_bytes) == (RESIDENT, 675 * MIB)
    world.ends(lane)
    world.submit(size=LARGE)
    lease = world.lease(lane)
    assert lease is not None
    assert (lease.placement, lease.predicted_peak_bytes) == (STREAMED, 500 * MIB)


def test_lane_chooses_when_its_memory_is_not_known() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.submit(size=HUGE)
    lease = world.lease(lane)
    assert lease is not None
    assert (lease.placement, lease.predicted_peak_bytes) == ("", 0)


def test_request_is_refused_when_no_known_lane_has_room_for_it() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA, memory=worker(700, ANISORA))
    world.attach("pool", ANISORA, PHR00T, pool=True, memory=worker(500, ANISORA, PHR00T))
    task_id = world.submit(size=HUGE)
    refusal = world.refused[task_id]
    assert refusal.code is RefusalCode.VRAM_EXCEEDED
    # 81 frames are 21 latent frames of 64 x 64 patches; the streamed rung of the larger lane comes nearest.
    assert (refusal.placement, refusal.predicted_bytes, refusal.limit_bytes) == (STREAMED, 200 * MIB + 21 * 4096 * 102_400, 700 * MIB)
    # 500 MiB are 5120 tokens: one latent frame of 4096; or 21 of 240: 15 x 15 patches would be 240 pixels, which is too small.
    assert (refusal.max_num_frames, refusal.max_size) == (1, None)
    assert not world.stored
    assert not world.core.state.held


def test_what_would_fit_is_told_when_a_request_is_refused() -> None:
    world = World(fit_rules=FitRules(frame_multiples={ANISORA: 8}))
    world.attach("lane-anisora", ANISORA, memory=worker(1000, ANISORA))
    task_id = world.submit(size=(832, 480, 81))
    refusal = world.refused[task_id]
    # 800 MiB are 8192 tokens: 5 latent frames of 1560, 17 frames, are 7800; 21 of 24 x 16, 384x256, are 8064.
    assert (refusal.max_num_frames, refusal.max_size) == (17, (384, 256))
    for size in ((832, 480, 17), (*(refusal.max_size or ()), 81)):
        world.submit(size=size)
    assert len(world.refused) == 1


@pytest.mark.parametrize(("size", "is_refused"), [(LARGE, False), (HUGE, True)])
def test_baseline_decides_when_no_lane_was_ever_seen(size: tuple[int, int, int], is_refused: bool) -> None:
    world = World(fit_rules=FitRules(baseline=worker(700, ANISORA, PHR00T)))
    task_id = world.submit(size=size)
    assert (task_id in world.refused, task_id in world.core.state.held) == (is_refused, not is_refused)


def test_baseline_decides_no_more_when_a_lane_has_said_what_it_has() -> None:
    world = World(fit_rules=FitRules(baseline=worker(700, ANISORA, PHR00T)))
    world.attach("lane-anisora", ANISORA)
    assert world.submit(size=HUGE) in world.refused
    world.attach("lane-anisora", ANISORA, memory=worker(20_000, ANISORA))
    assert world.submit(size=HUGE) in world.accepted
    # Of the other model no lane is known.
    assert world.submit(PHR00T, size=HUGE) in world.refused


def test_anything_may_fit_when_one_of_the_lanes_has_not_said_what_it_has() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA, memory=worker(400, ANISORA))
    other = world.attach("lane-other", ANISORA)
    task_id = world.submit(size=HUGE)
    assert world.task(task_id).lane_id == other


def test_nothing_is_refused_when_neither_lane_nor_baseline_is_known() -> None:
    world = World()
    assert world.submit(size=HUGE) in world.core.state.held


def test_lane_still_counts_when_it_is_away() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA, memory=worker(20_000, ANISORA))
    world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    world.detach(lane)
    world.advance(15.0)
    assert world.submit(size=HUGE) in world.core.state.held


def test_memory_is_known_when_admission_starts_again() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA, memory=worker(700, ANISORA))
    world.restart([world.core.state.lanes[lane].spec])
    assert world.submit(size=HUGE) in world.refused
    # The lane comes back and has not measured yet.
    world.attach("lane-anisora", ANISORA, boot="boot-2")
    assert world.submit(size=HUGE) in world.refused
    assert world.lanes[lane].spec.memory == worker(700, ANISORA)


def test_lane_is_not_ready_anew_when_it_only_says_what_memory_it_has() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    world.attach("lane-anisora", ANISORA, memory=worker(700, ANISORA))
    assert [name for name, _ in world.events].count("lane_ready") == 1


def test_verdict_is_another_when_a_larger_lane_comes_and_when_it_is_forgotten() -> None:
    world = World()
    world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    assert world.submit(size=LARGE) in world.refused
    large = world.attach("lane-large", ANISORA, memory=worker(20_000, ANISORA))
    assert world.submit(size=LARGE) in world.accepted
    world.ends(large)
    world.detach(large)
    small = world.core.state.lanes
    for _ in range(100):
        world.advance(900.0)
        world.report(next(lane_id for lane_id in small if lane_id != large))
    assert large not in world.core.state.lanes
    assert world.submit(size=LARGE) in world.refused


def test_request_turned_away_is_refused_by_its_memory_before_the_depth_of_the_queue() -> None:
    world = World()
    world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    world.core.state.policies[ANISORA] = replace(world.core.state.policies[ANISORA], is_fallback_manual=True)
    for _ in range(25):
        world.submit(size=SMALL)
    huge, small = (*HUGE, "t2v"), (*SMALL, "t2v")
    assert world.core.is_closed(ANISORA, huge, world.now())
    assert world.core.is_closed(ANISORA, small, world.now())
    for name, shape in (("one", huge), ("two", small)):
        world.handle(RequestTurnedAway(task_id=TaskId(name), model=ANISORA, shape=shape))
    assert (list(world.refused), list(world.overloaded)) == ([TaskId("one")], [TaskId("two")])


def test_only_memory_closes_the_core_to_a_request_when_there_is_room() -> None:
    world = World()
    world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    assert world.core.is_closed(ANISORA, (*HUGE, "t2v"), world.now())
    assert not world.core.is_closed(ANISORA, (*SMALL, "t2v"), world.now())


# Later steps consider only lanes on which it fits.


def test_request_goes_the_degraded_way_when_it_fits_no_ready_lane_of_its_model() -> None:
    world = World()
    world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    pool = world.attach("pool", ANISORA, PHR00T, pool=True, memory=worker(1000, ANISORA, PHR00T))
    task_id = world.submit(size=LARGE)
    task = world.task(task_id)
    assert (task.lane_id, task.lane_mode) == (pool, LaneMode.DEGRADED_SHARED)
    # Its model is not in fallback: other requests go to its own lane.
    assert "model_fallback_started" not in [name for name, _ in world.events]
    assert world.core.state.fallbacks == {}


def test_task_waits_for_the_lane_that_it_fits_when_another_is_idle() -> None:
    world = World()
    large = world.attach("lane-large", ANISORA, memory=worker(1000, ANISORA))
    first = world.submit(size=LARGE)
    small = world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    second, third = world.submit(size=LARGE), world.submit(size=SMALL)
    assert (world.task(first).lane_id, world.task(second).state, world.task(third).lane_id) == (large, TaskState.QUEUED, small)
    world.ends(large)
    assert world.task(second).lane_id == large


def test_callers_take_turns_when_the_first_of_one_does_not_fit() -> None:
    world = World()
    large = world.attach("lane-large", ANISORA, memory=worker(1000, ANISORA))
    world.submit(size=LARGE)
    small = world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    running = world.submit(owner="x", size=SMALL)
    world.submit(owner="ada", size=LARGE)
    asked = {world.submit(owner=owner, size=SMALL): owner for owner in ("ada", "bo", "bo", "ada")}
    taken = []
    for _ in asked:
        world.ends(small)
        lease = world.lease(small)
        assert lease is not None
        taken.append(asked[lease.task_id])
    assert taken == ["ada", "bo", "ada", "bo"]
    assert world.task(running).state is TaskState.DONE
    assert world.core.state.lanes[large].lease is not None


def test_pool_passes_over_what_does_not_fit_when_it_takes_the_oldest() -> None:
    world = World()
    world.attach("lane-large", PHR00T, memory=worker(1000, PHR00T))
    world.detach(world.attach("lane-away", ANISORA, memory=worker(1000, ANISORA)))
    large, small = world.submit(size=LARGE), world.submit(size=SMALL)
    world.advance(11.0)
    world.submit(size=LARGE)
    pool = world.attach("pool", ANISORA, pool=True, memory=worker(400, ANISORA))
    lease = world.lease(pool)
    assert large not in world.refused
    assert lease is None or lease.task_id == small


def test_held_request_enters_the_queue_when_a_lane_that_it_fits_becomes_ready() -> None:
    world = World()
    away = world.attach("lane-large", ANISORA, memory=worker(1000, ANISORA))
    world.detach(away)
    world.advance(11.0)
    world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    large, small = world.submit(size=LARGE), world.submit(size=SMALL)
    assert list(world.core.state.held) == [large]
    assert world.task(small).state is TaskState.LEASED
    world.attach("lane-large", ANISORA, memory=worker(1000, ANISORA))
    assert world.task(large).lane_id == away


def test_task_is_rescued_when_the_only_lane_that_it_fits_left_and_another_of_its_model_stays() -> None:
    world = World()
    large = world.attach("lane-large", ANISORA, memory=worker(1000, ANISORA))
    small = world.attach("lane-small", ANISORA, memory=worker(400, ANISORA))
    first, second = world.submit(size=LARGE), world.submit(size=LARGE)
    pool = world.attach("pool", ANISORA, pool=True, memory=worker(1000, ANISORA))
    world.works(large)
    world.detach(large)
    for _ in range(9):
        world.advance(4.9)
        world.report(small)
        world.report(pool)
    # The second was offered 30 s after the lane went cold; the first lost its lane then.
    assert world.task(second).lane_id == pool
    assert world.task(first).lost_lanes == 1


def test_accepted_task_waits_and_ends_by_the_rules_when_no_lane_fits_it_any_more() -> None:
    world = World()
    large = world.attach("lane-large", ANISORA, memory=worker(1000, ANISORA))
    world.submit(size=LARGE)
    waiting = world.submit(size=LARGE)
    # The machine was replaced by a smaller one.
    world.attach("lane-large", ANISORA, memory=worker(400, ANISORA), boot="boot-2")
    assert world.task(waiting).state is TaskState.QUEUED
    assert world.submit(size=LARGE) in world.refused
    for _ in range(800):
        world.advance(4.9)
        world.report(large)
    failure = world.task(waiting).failure
    assert failure is not None
    assert failure.code is FailureCode.NOT_SERVED


@given(
    size=st.tuples(st.integers(16, 64), st.integers(16, 64), st.integers(0, 30)),
    budget=st.integers(100, 20_000),
    retired=st.sampled_from([(), (RESIDENT,), (STREAMED,)]),
)
def test_group_chooses_as_the_shared_arithmetic_does(size: tuple[int, int, int], budget: int, retired: tuple[str, ...]) -> None:
    memory = worker(budget, ANISORA)
    width, height, frames = size[0] * 16, size[1] * 16, 4 * size[2] + 1
    group = Fits(FitRules()).groups(memory, [(ANISORA, placement) for placement in retired])[ANISORA]
    found = group.fit((width, height, frames, "t2v"), memory.limits.budget_bytes)
    expected = choose(ladder(ANISORA), memory.limits, Shape(width=width, height=height, num_frames=frames), without=retired)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert (found.placement, found.peak_bytes) == (expected.rung.placement, expected.peak_bytes)


# What a client may ask for.


def test_limits_are_those_of_the_lanes_when_they_are_known() -> None:
    world = World(fit_rules=FitRules(modes={ANISORA: ("t2v", "i2v")}, max_frames=241))
    world.attach("lane-1", ANISORA, memory=worker(1000, ANISORA, gpu="Large"))
    world.attach("lane-2", ANISORA, memory=worker(1000, ANISORA, gpu="Large"))
    world.attach("lane-3", ANISORA, memory=worker(400, ANISORA, gpu="Small"))
    limits = refusals.limits(world.core.state, ANISORA)
    assert limits.gpus == ("Large", "Small")
    by_size = {(one.width, one.height): one for one in limits.sizes}
    # 800 MiB are 8192 tokens, 8 latent frames of 1024.
    one = by_size[512, 512]
    assert (one.max_num_frames, one.placement, one.predicted_peak_bytes, one.predicted_s) == (29, STREAMED, 1000 * MIB, None)
    assert set(by_size) == set(refusals.COMMON_SIZES)


def test_limits_name_the_time_when_renders_were_measured() -> None:
    world = World()
    lane = world.attach("lane-1", ANISORA, memory=worker(1000, ANISORA))
    world.submit(size=(512, 512, 29))
    world.ends(lane, replace(DONE, render_s=81.92))
    one = next(one for one in refusals.limits(world.core.state, ANISORA).sizes if (one.width, one.height) == (512, 512))
    assert one.predicted_s == pytest.approx(81.92)


def test_limits_are_the_rules_when_nothing_is_known() -> None:
    world = World()
    limits = refusals.limits(world.core.state, ANISORA)
    assert (limits.gpus, {one.max_num_frames for one in limits.sizes}) == ((), {241})


# Time.


def _measured(render_s: float, size: tuple[int, int, int] = (512, 512, 81)) -> World:
    world = World()
    lane = world.attach("lane-anisora", ANISORA, memory=worker(40_000, ANISORA))
    world.submit(size=size)
    world.ends(lane, replace(DONE, render_s=render_s))
    return world


def test_request_is_refused_when_it_cannot_end_before_its_deadline() -> None:
    # 21 latent frames of 32 x 32 patches in 1500 s; of 64 x 64 they take four times as long.
    world = _measured(1500.0)
    refusal = world.refused[world.submit(size=HUGE)]
    assert refusal.code is RefusalCode.DEADLINE_UNREACHABLE
    assert refusal.predicted_s == pytest.approx(6000.0)
    assert refusal.limit_s == 3600.0
    # 3600 s are 51609 tokens: 12 latent frames of 4096 (45 frames), or 21 of 49 x 49 patches.
    assert (refusal.max_num_frames, refusal.max_size) == (45, (784, 784))


def test_nobody_is_refused_for_the_time_when_too_little_was_measured() -> None:
    # A small clip takes long for a token: what does not grow with it says nothing of clips over four times as large.
    world = _measured(60.0, SMALL)
    assert world.submit(size=HUGE) in world.accepted


def test_nobody_is_refused_for_the_time_when_it_just_suffices() -> None:
    world = _measured(900.0)
    assert world.submit(size=HUGE) in world.accepted


def test_quickest_lane_decides_when_lanes_differ() -> None:
    world = World()
    slow = world.attach("lane-slow", ANISORA, memory=worker(40_000, ANISORA, gpu="Slow"))
    world.submit(size=(512, 512, 81))
    world.ends(slow, replace(DONE, render_s=1500.0, memory=record(RESIDENT)))
    assert world.submit(size=HUGE) in world.refused
    quick = world.attach("lane-quick", ANISORA, memory=worker(40_000, ANISORA, gpu="Quick"))
    # Nothing was measured there yet: the mean of the model stands for it.
    assert world.submit(size=HUGE) in world.refused
    world.submit(size=SMALL)
    world.submit(size=(512, 512, 81))
    world.ends(quick, replace(DONE, render_s=500.0, memory=record(RESIDENT)))
    assert world.submit(size=HUGE) in world.accepted


def test_much_larger_clip_is_refused_when_the_largest_that_is_certain_takes_too_long() -> None:
    # Four times the clip takes 4 x 1500 s, and 61 latent frames of 64 x 64 are nearly 12 times as many tokens.
    world = _measured(1500.0)
    refusal = world.refused[world.submit(size=(1024, 1024, 241))]
    assert refusal.predicted_s == pytest.approx(6000.0)
