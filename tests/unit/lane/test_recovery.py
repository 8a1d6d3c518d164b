"""Which placement is tried, and which one after the memory ran out."""

from __future__ import annotations

from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung, Shape
from runtime.fit.placement import MemoryPhase
from runtime.lane.outcome import OutOfMemory
from runtime.lane.recovery import first_choice, limits_now, next_choice
from tests.harness.lane_memory import flat_ladder

SHAPE = Shape(width=256, height=256, num_frames=5)
LADDER = flat_ladder("a")  # 500 (resident_all), 400 (resident), 300 (resident_tiled), 200 (streamed), 100 (streamed_chunked)


def limits(budget: int, *, other: int = 0, margin: int = 0) -> DeviceLimits:
    """Of a device with so much to give."""
    return DeviceLimits(
        gpu="g", total_bytes=budget + other + margin, other_bytes=other, margin_bytes=margin, host_bytes=0, pinned_limit_bytes=0
    )


def first(budget: int, ordered: str = "", predicted: int = 0) -> tuple[str, int]:
    """Placement and predicted peak of the first try."""
    choice = first_choice(LADDER, limits(budget), SHAPE, ordered=ordered, ordered_peak_bytes=predicted)
    return choice.rung.placement, choice.peak_bytes


def after(placement: str, budget: int, phase: MemoryPhase = MemoryPhase.DENOISE, ladder: ModelLadder = LADDER) -> str:
    """Placement of the next try; empty when there is none."""
    choice = next_choice(ladder, limits(budget), SHAPE, OutOfMemory(phase=phase, placement=placement))
    return choice.rung.placement if choice is not None else ""


def test_the_ordered_placement_is_used_when_it_fits() -> None:
    # Although a faster one fits too: admission knows what was measured before.
    assert first(1000, "streamed", 250) == ("streamed", 250)


def test_the_lane_s_own_prediction_counts_when_it_is_higher_than_admission_s() -> None:
    assert first(1000, "streamed", 150) == ("streamed", 200)


def test_a_leaner_one_is_used_when_the_ordered_one_does_not_fit_now() -> None:
    assert first(350, "resident_all", 500) == ("resident_tiled", 300)


def test_a_leaner_one_is_used_when_the_corrected_peak_does_not_fit_now() -> None:
    assert first(350, "resident_tiled", 360) == ("streamed", 200)


def test_the_lane_chooses_when_no_placement_is_ordered() -> None:
    assert first(450) == ("resident", 400)


def test_the_lane_chooses_when_the_ordered_placement_is_unknown_to_it() -> None:
    assert first(450, "of a newer release") == ("resident", 400)


def test_the_leanest_is_tried_when_nothing_fits_by_prediction() -> None:
    assert first(50) == ("streamed_chunked", 100)
    assert first(50, "resident") == ("streamed_chunked", 100)


def test_the_next_rung_is_tried_when_the_memory_ran_out() -> None:
    assert after("resident_all", 1000) == "resident"


def test_rungs_that_do_not_fit_are_passed_over_when_the_memory_ran_out() -> None:
    assert after("resident_all", 250) == "streamed"


def test_a_rung_that_just_fits_is_passed_over_when_the_memory_ran_out() -> None:
    # The prediction was just wrong, and this is the last try: an eighth of 220 is 27.
    assert after("resident_all", 220) == "streamed_chunked"
    assert after("resident_all", 230) == "streamed"


def test_the_leanest_is_tried_when_the_memory_ran_out_and_nothing_fits() -> None:
    assert after("resident", 50) == "streamed_chunked"


def test_there_is_no_next_try_when_the_leanest_ran_out() -> None:
    assert after("streamed_chunked", 1000) == ""


def test_there_is_no_next_try_when_the_placement_is_none_of_the_ladder() -> None:
    assert after("of a newer release", 1000) == ""


def test_rungs_that_need_as_much_in_the_phase_that_ran_out_are_passed_over() -> None:
    # The second rung tiles the VAE, which does not help a transformer: the only retry would be spent on the same failure.
    def rung(placement: str, denoise: int, decode: int) -> Rung:
        costs = ((MemoryPhase.DENOISE, denoise), (MemoryPhase.DECODE, decode))
        phases = tuple(PhaseCost(phase=phase, weights_bytes=weights, activations=Activations()) for phase, weights in costs)
        return Rung(placement=placement, phases=phases)

    ladder = ModelLadder(model="a", rungs=(rung("resident", 300, 200), rung("resident_tiled", 300, 100), rung("streamed", 200, 100)))
    assert after("resident", 1000, MemoryPhase.DENOISE, ladder) == "streamed"
    assert after("resident", 1000, MemoryPhase.DECODE, ladder) == "resident_tiled"
    # Nothing is predicted for a load alone: the whole render decides.
    assert after("resident", 1000, MemoryPhase.LOAD, ladder) == "streamed"


def test_the_limits_stay_when_the_device_tells_nothing() -> None:
    assert limits_now(limits(100), None, None) == limits(100)


def test_the_limits_stay_when_libraries_took_a_part_of_the_margin() -> None:
    # 100 of budget, 20 of margin: 105 can be had, 15 went to kernels that were loaded late.
    before = limits(100, other=30, margin=20)
    assert limits_now(before, free_bytes=45, reserved_bytes=60) == before


def test_a_margin_is_kept_free_again_when_another_process_took_memory() -> None:
    # 90 can be had: 10 are missing, and as many stay free; with 75 it is the whole margin, without a leap at its edge.
    assert limits_now(limits(100, other=30, margin=20), free_bytes=30, reserved_bytes=60).budget_bytes == 80
    assert limits_now(limits(100, other=30, margin=20), free_bytes=15, reserved_bytes=60).budget_bytes == 55
    assert limits_now(limits(100, other=30, margin=20), free_bytes=39, reserved_bytes=60).budget_bytes == 98
