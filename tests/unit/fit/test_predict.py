"""Peaks, choices and the largest request that fits, by examples calculated by hand and by laws against brute force."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.fit.cost import Activations, ModelLadder, PhaseCost, Rung, Shape
from runtime.fit.ladder import build_ladder
from runtime.fit.placement import MemoryPhase
from runtime.fit.predict import MAX_SIDE, MIN_SIDE, choose, explain, largest_frames, largest_size, peak_bytes
from tests.unit.fit.figures import ANISORA, GIB, PHR00T, limits

_ANISORA = ANISORA.ladder("fp8")
_PHR00T = PHR00T.ladder("fp8")
_480P = Shape(width=480, height=832, num_frames=81, mode="i2v")
_720P = Shape(width=720, height=1280, num_frames=81, mode="i2v")
# 22.06 GiB that torch sees of an A10G, less 0.5 for context and libraries and 0.5 of margin.
_A10G = limits(21.06)


def _rung(ladder: ModelLadder, placement: str) -> Rung:
    (rung,) = [rung for rung in ladder.rungs if rung.placement == placement]
    return rung


def _fits(ladder: ModelLadder, budget_gib: float, shape: Shape) -> bool:
    return choose(ladder, limits(budget_gib), shape) is not None


# --- by hand


def test_tokens_are_those_of_the_facts_when_the_size_is_common() -> None:
    assert [_480P.tokens, replace(_480P, num_frames=49).tokens, _720P.tokens] == [32_760, 20_280, 75_600]


def test_anisora_is_resident_when_480p_meets_an_a10g() -> None:
    # 13.53 GiB of expert + 32,760 * 22.3 * 5120 bytes (3.48 GiB) = 17.01 GiB. The text encoder with 10.7 and the VAE with 4.2 GiB are less.
    choice = choose(_ANISORA, _A10G, _480P)
    assert choice is not None
    assert choice.rung.placement == "resident"
    assert choice.peak_bytes / GIB == pytest.approx(17.01, abs=0.01)


def test_phr00t_needs_its_hints_one_by_one_when_480p_meets_an_a10g() -> None:
    # Resident: 16.37 + 32,760 * 40.4 * 5120 bytes (6.31 GiB) = 22.68 > 21.06. With lazy hints: 16.37 + 3.75 = 20.12.
    assert peak_bytes(_rung(_PHR00T, "resident"), _480P) / GIB == pytest.approx(22.68, abs=0.01)
    choice = choose(_PHR00T, _A10G, _480P)
    assert choice is not None
    assert (choice.rung.placement, round(choice.peak_bytes / GIB, 2)) == ("resident_tiled", 20.12)


def test_anisora_streams_when_720p_meets_an_a10g() -> None:
    # Resident: 13.53 + 75,600 * 22.3 * 5120 bytes (8.04 GiB) = 21.57 > 21.06. Streamed, 38 of the 40 blocks of 351,394,304 bytes stay away:
    # 13.53 - 12.44 + 8.04 = 9.13.
    choice = choose(_ANISORA, _A10G, _720P)
    assert choice is not None
    assert choice.rung.placement == "streamed"
    assert choice.peak_bytes / GIB == pytest.approx(13.53 - 38 * 351_394_304 / GIB + 8.04, abs=0.01)


def test_nothing_is_chosen_when_no_rung_fits() -> None:
    assert choose(_PHR00T, limits(2.0), _720P) is None


def test_peak_is_the_highest_phase_when_the_vae_needs_more_than_the_transformer() -> None:
    rung = Rung(
        placement="resident",
        phases=(
            PhaseCost(phase=MemoryPhase.DENOISE, weights_bytes=100, activations=Activations(fixed=1.0)),
            PhaseCost(phase=MemoryPhase.DECODE, weights_bytes=60, activations=Activations(fixed=50.0)),
        ),
    )
    assert peak_bytes(rung, _480P) == 110


def test_phase_does_not_count_when_the_mode_has_none() -> None:
    rung = Rung(
        placement="resident",
        phases=(
            PhaseCost(phase=MemoryPhase.ENCODE, weights_bytes=900, activations=Activations(), modes=("i2v",)),
            PhaseCost(phase=MemoryPhase.DENOISE, weights_bytes=100, activations=Activations()),
        ),
    )
    assert (peak_bytes(rung, _480P), peak_bytes(rung, replace(_480P, mode="t2v"))) == (900, 100)


def test_activations_alone_are_raised_when_measured_peaks_were_higher() -> None:
    rung = Rung(
        placement="resident", phases=(PhaseCost(phase=MemoryPhase.DENOISE, weights_bytes=100, activations=Activations(fixed=10.0)),)
    )
    assert [peak_bytes(rung, _480P, correction) for correction in (0.5, 1.0, 1.25)] == [110, 110, 113]


def test_leaner_rung_is_chosen_when_a_correction_leaves_no_room() -> None:
    # 13.53 + 3.48 * 2.2 = 21.19 > 21.06; resident_tiled is not corrected and fits.
    choice = choose(_ANISORA, _A10G, _480P, corrections={"resident": 2.2})
    assert choice is not None
    assert choice.rung.placement == "resident_tiled"


def test_next_rung_is_chosen_when_one_is_out_of_use() -> None:
    choice = choose(_ANISORA, _A10G, _480P, without={"resident", "resident_tiled"})
    assert choice is not None
    assert choice.rung.placement == "streamed"


def test_longest_clip_has_a_count_that_the_model_makes_when_the_search_ends() -> None:
    # 40 frames are allowed: 4k+1 gives 37, 8k+1 gives 33.
    assert largest_frames(lambda shape: shape.num_frames <= 40, _480P, 4, 241) == 37
    assert largest_frames(lambda shape: shape.num_frames <= 40, _480P, 8, 241) == 33


def test_largest_size_keeps_the_aspect_ratio_when_it_shrinks() -> None:
    # 9:16 of at most 600,000 pixels: 1024 is 64 * 16, and 1024 * 9 / 16 = 576; 1040 would go with 585, that is 592, and 615,680 pixels.
    assert largest_size(lambda shape: shape.pixels <= 600_000, _720P) == (576, 1024)


def test_largest_size_lies_down_when_the_clip_does() -> None:
    lying = replace(_720P, width=1280, height=720)
    assert largest_size(lambda shape: shape.pixels <= 600_000, lying) == (1024, 576)


def test_no_size_is_named_when_the_least_does_not_fit() -> None:
    assert largest_size(lambda _shape: False, _720P) is None


def test_no_clip_is_named_when_a_single_frame_does_not_fit() -> None:
    assert largest_frames(lambda _shape: False, _480P, 4, 241) == 0


def test_parts_add_up_to_the_peak_when_they_are_explained() -> None:
    for ladder in (_ANISORA, _PHR00T):
        for rung in ladder.rungs:
            phases = explain(rung, _720P, 1.1)
            for phase in phases:
                parts = (phase.weights_bytes, phase.fixed_bytes, phase.token_bytes, phase.pixel_bytes, phase.correction_bytes)
                assert sum(parts) == phase.peak_bytes
                assert min(parts) >= 0
            assert max(phase.peak_bytes for phase in phases) == peak_bytes(rung, _720P, 1.1)


# --- by law

_COEFFICIENTS = st.floats(0, 1e6, allow_nan=False)
_ACTIVATIONS = st.builds(
    Activations, fixed=_COEFFICIENTS, per_token=_COEFFICIENTS, per_pixel=_COEFFICIENTS, per_frame_pixel=st.floats(0, 1e3, allow_nan=False)
)
_PHASES = st.builds(
    PhaseCost,
    phase=st.sampled_from([MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE]),
    weights_bytes=st.integers(0, 30 * GIB),
    activations=_ACTIVATIONS,
    modes=st.sampled_from([(), ("i2v",)]),
)
_RUNGS = st.builds(Rung, placement=st.sampled_from("abcdef"), phases=st.lists(_PHASES, min_size=1, max_size=4).map(tuple))
_LADDERS = st.lists(_RUNGS, min_size=1, max_size=5, unique_by=lambda rung: rung.placement).map(
    lambda rungs: ModelLadder(model="anisora", rungs=tuple(rungs))
)
_SIDES = st.integers(MIN_SIDE // 16, MAX_SIDE // 16).map(lambda units: units * 16)
_SHAPES = st.builds(
    Shape, width=_SIDES, height=_SIDES, num_frames=st.integers(0, 60).map(lambda k: 4 * k + 1), mode=st.sampled_from(["t2v", "i2v"])
)
_CORRECTIONS = st.floats(0, 5, allow_nan=False)
_BUDGETS = st.floats(0.1, 80)


@given(_RUNGS, _SHAPES, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_peak_never_falls_when_a_request_grows(rung: Rung, shape: Shape, wider: int, higher: int, longer: int) -> None:
    larger = replace(shape, width=shape.width + 16 * wider, height=shape.height + 16 * higher, num_frames=shape.num_frames + 4 * longer)
    assert peak_bytes(rung, larger) >= peak_bytes(rung, shape)


@given(_RUNGS, _SHAPES, _CORRECTIONS, _CORRECTIONS)
def test_peak_never_falls_when_it_is_corrected(rung: Rung, shape: Shape, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert peak_bytes(rung, shape) <= peak_bytes(rung, shape, less) <= peak_bytes(rung, shape, more)


@given(_LADDERS, _BUDGETS, _SHAPES, st.dictionaries(st.sampled_from("abcdef"), _CORRECTIONS), st.sets(st.sampled_from("abcdef")))
def test_the_first_rung_within_the_budget_is_chosen_when_there_are_several(
    ladder: ModelLadder, budget_gib: float, shape: Shape, corrections: dict[str, float], without: set[str]
) -> None:
    device = limits(budget_gib)
    within = [
        (rung, peak)
        for rung in ladder.rungs
        if rung.placement not in without and (peak := peak_bytes(rung, shape, corrections.get(rung.placement, 1.0))) <= device.budget_bytes
    ]
    choice = choose(ladder, device, shape, corrections, without)
    assert (None if choice is None else (choice.rung, choice.peak_bytes)) == (within[0] if within else None)


@given(_LADDERS, _BUDGETS, _SHAPES, st.sampled_from([4, 8]), st.integers(1, 241))
def test_the_longest_clip_is_that_of_brute_force_when_it_is_searched(
    ladder: ModelLadder, budget_gib: float, shape: Shape, multiple: int, maximum: int
) -> None:
    brute = [
        frames
        for frames in range(1, maximum + 1)
        if (frames - 1) % multiple == 0 and _fits(ladder, budget_gib, replace(shape, num_frames=frames))
    ]
    assert largest_frames(lambda one: _fits(ladder, budget_gib, one), shape, multiple, maximum) == max(brute, default=0)


def _sizes_of(shape: Shape) -> list[tuple[int, int]]:
    """Every longer side with the nearest shorter one, smallest first; written without the tricks of the search."""
    longer, shorter = max(shape.width, shape.height), min(shape.width, shape.height)
    sizes = []
    for long_side in range(MIN_SIDE, MAX_SIDE + 1, 16):
        exact = long_side * shorter / longer
        short_side = min(range(MIN_SIDE, long_side + 1, 16), key=lambda side: (abs(side - exact), -side))
        sizes.append((long_side, short_side) if shape.width >= shape.height else (short_side, long_side))
    return sizes


@given(_LADDERS, _BUDGETS, _SHAPES)
def test_the_largest_size_is_that_of_brute_force_when_it_is_searched(ladder: ModelLadder, budget_gib: float, shape: Shape) -> None:
    fitting = [size for size in _sizes_of(shape) if _fits(ladder, budget_gib, replace(shape, width=size[0], height=size[1]))]
    assert largest_size(lambda one: _fits(ladder, budget_gib, one), shape) == (fitting[-1] if fitting else None)


@given(st.sampled_from([ANISORA, PHR00T]), _SHAPES, _BUDGETS, st.floats(0, 10))
def test_a_request_still_fits_when_the_budget_grows(model: object, shape: Shape, budget_gib: float, more_gib: float) -> None:
    assert model in (ANISORA, PHR00T)
    ladder = _ANISORA if model is ANISORA else _PHR00T
    assert _fits(ladder, budget_gib + more_gib, shape) or not _fits(ladder, budget_gib, shape)


def test_leaner_rungs_need_no_more_when_the_shape_is_large() -> None:
    for model in (ANISORA, PHR00T):
        peaks = [peak_bytes(rung, _720P) for rung in build_ladder(model.parts["fp8"], model.activations).rungs]
        assert peaks == sorted(peaks, reverse=True)
