"""What the end of an attempt teaches: corrections, times, rungs out of use, drift, switches. It survives a restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admission.core.commands import RefusalCode
from admission.core.excess import MOST
from admission.core.lanes import Outcome
from admission.core.learned import Place, everywhere
from admission.core.learning import DRIFT_ALLOWANCE_BYTES
from admission.core.tasks import Failure, FailureCode, LaneId, MemoryRecord, TaskId
from tests.harness.core import ANISORA, DONE, PHR00T, World, failed
from tests.harness.memory import MIB, RESIDENT, STREAMED, record, worker

LARGE = (512, 512, 9)
# 300 MiB of activations beside 600 MiB of weights, or 200 when they are streamed.
GPU = "Simulated 1 GiB"
HERE = Place(GPU, ANISORA, RESIDENT)
CLASS = (300 * MIB).bit_length()


def rig(budget_mib: int = 1000) -> tuple[World, LaneId]:
    """A lane with so much memory."""
    world = World()
    return world, world.attach("lane-anisora", ANISORA, memory=worker(budget_mib, ANISORA))


def render(world: World, lane: LaneId, memory: MemoryRecord, *, render_s: float = 10.0, failure: Failure | None = None) -> TaskId:
    """One attempt from its lease to its end."""
    task_id = world.submit(size=LARGE)
    lease = world.lease(lane)
    assert lease is not None
    assert lease.task_id == task_id
    world.ends(lane, failed(failure) if failure is not None else replace(DONE, memory=memory, render_s=render_s))
    return task_id


def lease_placement(world: World, lane: LaneId) -> str:
    """How the next request would be rendered; it is cancelled again."""
    task_id = world.submit(size=LARGE)
    lease = world.lease(lane)
    assert lease is not None
    placement = lease.placement
    world.cancel(task_id)
    world.report(lane)
    return placement


def told(world: World, event_type: str) -> list[tuple[str, str]]:
    """Value and model of the events of a type."""
    return [(event.value, event.model or "") for event in world.kept if event.event_type == event_type]


# Corrections.


def test_prediction_rises_when_a_phase_took_more_than_predicted() -> None:
    world, lane = rig(budget_mib=920)
    assert lease_placement(world, lane) == RESIDENT
    # 330 instead of 300 MiB.
    render(world, lane, record(RESIDENT, peaks={"text": 601 * MIB, "denoise": 930 * MIB}))
    assert world.learned[HERE].excesses == {"denoise": {CLASS: 30 * MIB}}
    # 930 MiB are too much now; the other rung has its own correction, which is none.
    assert lease_placement(world, lane) == STREAMED


def test_prediction_stays_when_less_was_measured() -> None:
    world, lane = rig()
    render(world, lane, record(RESIDENT, peaks={"denoise": 930 * MIB}))
    render(world, lane, record(RESIDENT, peaks={"denoise": 700 * MIB}))
    assert world.learned[HERE].excesses == {"denoise": {CLASS: 30 * MIB}}


def test_only_its_own_phase_is_corrected_when_a_small_one_was_wrong() -> None:
    world, lane = rig(budget_mib=910)
    # Twice the text encoder's single MiB: the 300 MiB of denoising stay as they were.
    render(world, lane, record(RESIDENT, peaks={"text": 602 * MIB, "denoise": 900 * MIB}))
    assert world.learned[HERE].excesses == {"text": {21: MIB}}
    assert lease_placement(world, lane) == RESIDENT


def test_excess_is_bounded_when_a_measurement_is_absurd() -> None:
    world, lane = rig()
    render(world, lane, record(RESIDENT, peaks={"denoise": 10_000 * MIB}))
    assert world.learned[HERE].excesses == {"denoise": {CLASS: MOST * 300 * MIB}}


def test_what_the_allocator_held_teaches_nothing() -> None:
    # After a try that ran out, the allocator has held the whole device; the leaner one that then served took no more than predicted.
    world, lane = rig()
    render(world, lane, record(STREAMED, peaks={"denoise": 500 * MIB}, peak_reserved_bytes=1020 * MIB))
    assert world.learned[Place(GPU, ANISORA, STREAMED)].excesses == {}


def test_request_goes_a_rung_down_at_once_when_its_like_ran_out_of_memory() -> None:
    world, lane = rig()
    assert lease_placement(world, lane) == RESIDENT
    ran_out = {"phase": "denoise", "placement": RESIDENT, "peak_bytes": 950 * MIB, "budget_bytes": 1000 * MIB}
    render(world, lane, record(STREAMED, out_of_memory=[ran_out]))
    # All of the budget and more would have been needed: 400 MiB and a byte of activations, where 300 were predicted.
    assert world.learned[HERE].excesses == {"denoise": {CLASS: 100 * MIB + 1}}
    assert lease_placement(world, lane) == STREAMED
    # The other rung is not the worse for having saved it.
    assert world.core.state.fits.excesses(Place(GPU, ANISORA, STREAMED)) == {}


def test_only_what_was_allocated_counts_when_another_process_had_taken_memory() -> None:
    world, lane = rig()
    ran_out = {"phase": "denoise", "placement": RESIDENT, "peak_bytes": 700 * MIB, "budget_bytes": 750 * MIB}
    render(world, lane, record(STREAMED, out_of_memory=[ran_out]))
    assert world.core.state.fits.excesses(HERE) == {}
    assert lease_placement(world, lane) == RESIDENT


def test_correction_holds_for_every_lane_of_the_gpu_and_for_no_other() -> None:
    world, lane = rig(budget_mib=920)
    world.attach("pool", ANISORA, PHR00T, pool=True, memory=worker(920, ANISORA, PHR00T))
    other = world.attach("other", ANISORA, memory=worker(920, ANISORA, gpu="Another"))
    render(world, lane, record(RESIDENT, peaks={"denoise": 930 * MIB}))
    lanes = world.core.state.lanes
    key = (*LARGE, "t2v")
    fits = {lane_id: lanes[lane_id].fit(ANISORA, key) for lane_id in (lane, LaneId("pool"), other)}
    assert [fit.placement for fit in fits.values() if fit is not None] == [STREAMED, STREAMED, RESIDENT]


def test_peaks_are_learned_when_the_attempt_was_cancelled() -> None:
    world, lane = rig()
    task_id = world.submit(size=LARGE)
    world.works(lane)
    world.cancel(task_id)
    stopped = Outcome(failure=Failure(code=FailureCode.CANCELLED, message="."), memory=record(RESIDENT, peaks={"denoise": 930 * MIB}))
    world.says_ended(lane, task_id, 1, stopped)
    assert world.learned[HERE].excesses == {"denoise": {CLASS: 30 * MIB}}


@pytest.mark.parametrize(
    "figures",
    [
        {"placement": 7},
        {"placement": RESIDENT, "phase_peaks": "much"},
        {"placement": RESIDENT, "phase_peaks": [{"phase": "denoise"}, {"peak_bytes": 1}, 3]},
        {"placement": "unheard-of", "phase_peaks": [{"phase": "denoise", "peak_bytes": 1}], "out_of_memory": [{}], "drift_bytes": "x"},
        {"placement": RESIDENT, "residency_change": {"load_duration": "soon"}},
    ],
)
def test_nothing_breaks_when_a_record_makes_no_sense(figures: dict[str, object]) -> None:
    world, lane = rig()
    render(world, lane, MemoryRecord(figures=figures))
    assert not any(learned.excesses for learned in world.learned.values())


def test_figures_that_are_texts_are_understood_as_protobuf_spells_them() -> None:
    world, lane = rig()
    figures = {"placement": RESIDENT, "phase_peaks": [{"phase": "denoise", "peak_bytes": str(930 * MIB)}]}
    render(world, lane, MemoryRecord(figures=figures))
    assert world.learned[HERE].excesses == {"denoise": {CLASS: 30 * MIB}}


# Times.


def test_time_is_learned_by_placement_with_the_models_mean_beside_it() -> None:
    world, lane = rig()
    task_id = render(world, lane, record(RESIDENT), render_s=307.2)
    task = world.task(task_id)
    rate = world.learned[HERE].rate
    assert rate is not None
    assert rate.seconds_per_token == pytest.approx(0.1)
    assert rate.largest_tokens == 3072
    assert world.learned[everywhere(ANISORA)].rate == rate
    render(world, lane, record(STREAMED), render_s=614.4)
    times = world.core.state.times
    assert times.predicted_s(task, HERE) == pytest.approx(307.2)
    assert times.predicted_s(task, Place(GPU, ANISORA, STREAMED)) == pytest.approx(614.4)
    # 307.2 and three tenths of the way to 614.4; so for what was never measured.
    assert times.predicted_s(task) == times.predicted_s(task, Place("Another", ANISORA, STREAMED)) == pytest.approx(399.36)


def test_time_of_a_switch_is_not_the_renders_own() -> None:
    world, lane = rig()
    change = {"released_model": PHR00T, "loaded_model": ANISORA, "release_duration": "1.2s", "load_duration": "100s"}
    render(world, lane, record(RESIDENT, residency_change=change), render_s=408.4)
    assert world.core.state.times.seconds_per_token(ANISORA) == pytest.approx(0.1)


def test_no_time_is_learned_when_the_render_had_to_begin_anew() -> None:
    world, lane = rig()
    render(world, lane, record(STREAMED, out_of_memory=[RESIDENT]))
    assert world.core.state.times.seconds_per_token(ANISORA) is None


def test_deadline_leaves_room_for_attention_when_a_clip_is_larger_than_any_measured() -> None:
    world, lane = rig(budget_mib=100_000)
    render(world, lane, record(RESIDENT), render_s=921.6)  # 0.3 s for each of 3072 tokens
    world.submit(size=(512, 512, 17))  # 5120 tokens, of which each takes (29,760 + 5120) / (29,760 + 3072) of that
    assert world.wishes[lane].render_deadline_s == pytest.approx(1.5 * 0.3 * 5120 * 34_880 / 32_832, rel=1e-3)


def test_deadline_is_calculated_for_the_gpu_when_nothing_was_measured() -> None:
    world = World()
    a10g = world.attach("lane-anisora", ANISORA, memory=worker(100_000, ANISORA, gpu="NVIDIA A10G"))
    other = world.attach("lane-phr00t", PHR00T, memory=worker(100_000, PHR00T, gpu="Unheard of"))
    world.submit(size=(720, 1280, 81))
    # 8 passes of 6.52 PFLOP at 35 % of 70 TFLOPS are 2131 s.
    assert world.wishes[a10g].render_deadline_s == pytest.approx(1.5 * 2131, rel=1e-2)
    world.submit(model=PHR00T, size=(720, 1280, 81))
    assert world.wishes[other].render_deadline_s == 900.0


def test_second_pass_of_a_step_counts_in_the_deadline() -> None:
    world, lane = rig()
    task = world.task(render(world, lane, record(RESIDENT), render_s=307.2))
    times = world.core.state.times
    plain_s = times.generous_s(task, HERE)
    assert plain_s is not None
    assert times.generous_s(replace(task, parameters={**task.parameters, "guidance_scale": 1.0}), HERE) == plain_s
    assert times.generous_s(replace(task, parameters={**task.parameters, "guidance_scale": 3.5}), HERE) == 2 * plain_s


def test_next_one_gets_a_longer_deadline_when_a_render_was_overdue() -> None:
    world, lane = rig()
    overdue = replace(failed(Failure(code=FailureCode.DEADLINE_EXCEEDED, message="")), memory=record(RESIDENT))
    world.submit(size=LARGE)
    assert world.wishes[lane].render_deadline_s == 900.0
    world.works(lane, 60)
    world.ends(lane, overdue)
    world.submit(size=LARGE)
    # 900 s for 60 %: 1500 s in all.
    assert world.wishes[lane].render_deadline_s == pytest.approx(1.5 * 1500)


def test_one_like_it_is_refused_when_a_render_was_overdue_at_the_longest_deadline() -> None:
    world, lane = rig()
    render(world, lane, record(RESIDENT), render_s=3000.0)
    world.submit(size=LARGE)
    assert world.wishes[lane].render_deadline_s == 3600.0
    world.works(lane, 40)
    world.ends(lane, replace(failed(Failure(code=FailureCode.DEADLINE_EXCEEDED, message="")), memory=record(RESIDENT)))
    rate = world.learned[HERE].rate
    assert rate is not None
    # 9000 s, three tenths of the way from 3000.
    assert rate.seconds_per_token * 3072 == pytest.approx(4800.0)
    assert world.refused[world.submit(size=LARGE)].code is RefusalCode.DEADLINE_UNREACHABLE


@pytest.mark.parametrize("progress", [0, 9])
def test_nothing_is_learned_of_a_render_that_was_overdue_before_it_had_come_far(progress: int) -> None:
    world, lane = rig()
    world.submit(size=LARGE)
    world.works(lane, progress)
    world.ends(lane, replace(failed(Failure(code=FailureCode.DEADLINE_EXCEEDED, message="")), memory=record(RESIDENT)))
    assert world.core.state.times.seconds_per_token(ANISORA) is None


def test_deadline_is_by_the_lanes_own_placement() -> None:
    world, lane = rig()
    render(world, lane, record(RESIDENT), render_s=1000.0)
    world.submit(size=LARGE)
    assert world.wishes[lane].render_deadline_s == pytest.approx(1500.0)


# After a restart.


def test_everything_is_known_when_admission_starts_again() -> None:
    world, lane = rig(budget_mib=920)
    render(world, lane, record(RESIDENT, peaks={"denoise": 930 * MIB}), render_s=307.2)
    spec = world.core.state.lanes[lane].spec
    world.restart([spec])
    assert world.core.state.fits.excesses(HERE) == {"denoise": {CLASS: 30 * MIB}}
    assert world.core.state.times.seconds_per_token(ANISORA, HERE) == pytest.approx(0.1)
    world.attach("lane-anisora", ANISORA, memory=spec.memory)
    assert lease_placement(world, lane) == STREAMED


# Rungs that do not hold.


def test_placement_is_out_of_use_when_it_ran_out_of_memory_three_times_in_a_row() -> None:
    world, lane = rig()
    for _ in range(2):
        render(world, lane, record(STREAMED, out_of_memory=[RESIDENT]))
    assert lease_placement(world, lane) == RESIDENT
    render(world, lane, record(STREAMED, out_of_memory=[RESIDENT]))
    assert lease_placement(world, lane) == STREAMED
    assert told(world, "placement_retired") == [(RESIDENT, ANISORA)]


def test_placement_stays_in_use_when_it_succeeded_between() -> None:
    world, lane = rig()
    for _ in range(3):
        render(world, lane, record(STREAMED, out_of_memory=[RESIDENT]))
        render(world, lane, record(RESIDENT))
    assert told(world, "placement_retired") == []


def test_last_placement_stays_in_use_when_all_run_out_of_memory() -> None:
    world, lane = rig()
    for _ in range(4):
        ran_out = Outcome(
            failure=Failure(code=FailureCode.GPU_MEMORY_EXCEEDED, message="."),
            memory=record(STREAMED, out_of_memory=[RESIDENT, STREAMED]),
        )
        task_id = world.submit(size=LARGE)
        world.says_ended(lane, task_id, 1, ran_out)
        world.report(lane)
    assert told(world, "placement_retired") == [(RESIDENT, ANISORA)]
    assert lease_placement(world, lane) == STREAMED


def test_placement_is_used_again_when_the_lane_was_restarted() -> None:
    world, lane = rig()
    for _ in range(3):
        render(world, lane, record(STREAMED, out_of_memory=[RESIDENT]))
    world.attach("lane-anisora", ANISORA, boot="boot-2")
    assert lease_placement(world, lane) == RESIDENT
    assert world.lanes[lane].retired == ()


def test_placement_stays_out_of_use_when_admission_was_restarted_and_the_lane_was_not() -> None:
    world, lane = rig()
    for _ in range(3):
        render(world, lane, record(STREAMED, out_of_memory=[RESIDENT]))
    spec = world.core.state.lanes[lane].spec
    world.restart([spec])
    world.attach("lane-anisora", ANISORA, memory=spec.memory)
    assert lease_placement(world, lane) == STREAMED


# What stays, and switches.


def test_drift_is_told_when_it_rises_over_five_attempts() -> None:
    world, lane = rig()
    for step in range(1, 6):
        render(world, lane, record(RESIDENT, drift_bytes=step * 20 * MIB))
    assert told(world, "memory_drift") == [(str(100 * MIB), ANISORA)]
    for step in range(6, 10):
        render(world, lane, record(RESIDENT, drift_bytes=step * 20 * MIB))
    assert len(told(world, "memory_drift")) == 1


@pytest.mark.parametrize(
    "drifts",
    [
        [100, 100, 100, 100, 100],
        [0, 90, 40, 95, 100],
        [1, 2, 3, 4, DRIFT_ALLOWANCE_BYTES // MIB],
        [80, 90, 100, 110],
    ],
)
def test_drift_is_not_told_when_it_is_steady_or_falls_or_is_small_or_was_seen_too_rarely(drifts: list[int]) -> None:
    world, lane = rig()
    for drift in drifts:
        render(world, lane, record(RESIDENT, drift_bytes=drift * MIB))
    assert told(world, "memory_drift") == []


def test_switch_of_the_resident_model_is_told_when_one_preceded_the_attempt() -> None:
    world, lane = rig()
    change = {
        "released_model": PHR00T,
        "loaded_model": ANISORA,
        "release_duration": "1.500s",
        "load_duration": "2s",
        "process_replaced": True,
    }
    render(world, lane, record(RESIDENT, residency_change=change))
    render(world, lane, record(RESIDENT))
    assert told(world, "residency_changed") == [("3.500", ANISORA)]
    assert any("the process was replaced" in reason for _, reason in world.events)
