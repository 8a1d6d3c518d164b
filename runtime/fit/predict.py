"""Predicts the peak of a request, chooses its placement, and finds the largest request that fits: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from runtime.fit.cost import DeviceLimits, ModelLadder, PhaseCost, Rung, Shape

SIZE_MULTIPLE = 16
"""Pixels, as in the rules of requests: 8 from the VAE's stride, 2 from the transformer's patch."""

MIN_SIDE = 256
MAX_SIDE = 2048
"""Pixels, as in the rules of requests."""

_NO_CORRECTIONS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The fastest placement that fits, and its predicted peak, margin not included."""

    rung: Rung
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePrediction:
    """One phase of one rung for one request, by its parts; all in bytes.

    Attributes:
        fixed_bytes: of activations that no size changes.
        token_bytes: of activations that grow with the latent tokens.
        pixel_bytes: of activations that grow with the pixels of a frame or of the clip.
        correction_bytes: what was added because measured peaks were higher.
        peak_bytes: the sum, weights included.
    """

    phase: str
    weights_bytes: int
    fixed_bytes: int
    token_bytes: int
    pixel_bytes: int
    correction_bytes: int
    peak_bytes: int


def peak_bytes(rung: Rung, shape: Shape, correction: float = 1.0) -> int:
    """The predicted peak: the highest phase of the request's mode. `correction` raises the activations; below 1 it changes nothing."""
    return max((_phase_peak(cost, shape, correction) for cost in rung.phases if _happens(cost, shape)), default=0)


def explain(rung: Rung, shape: Shape, correction: float = 1.0) -> tuple[PhasePrediction, ...]:
    """The phases of the request's mode, each by its parts; the highest peak is that of `peak_bytes`."""
    return tuple(_explained(cost, shape, correction) for cost in rung.phases if _happens(cost, shape))


def choose(
    ladder: ModelLadder,
    limits: DeviceLimits,
    shape: Shape,
    corrections: Mapping[str, float] = _NO_CORRECTIONS,
    without: Collection[str] = (),
) -> Choice | None:
    """The fastest rung whose peak is within the budget, or None.

    Args:
        ladder: of the request's model.
        limits: of the device.
        shape: of the effective request.
        corrections: measured over predicted activations, by placement; absent is 1.
        without: placements out of use.
    """
    for rung in ladder.rungs:
        if rung.placement in without:
            continue
        peak = peak_bytes(rung, shape, corrections.get(rung.placement, 1.0))
        if peak <= limits.budget_bytes:
            return Choice(rung=rung, peak_bytes=peak)
    return None


def largest_frames(fits: Callable[[Shape], bool], shape: Shape, frame_multiple: int, maximum: int) -> int:
    """The most frames, `frame_multiple` * k + 1 and at most `maximum`, of a clip of this size that fits; 0 when none does.

    `fits` must be true of a shorter clip wherever it is true of a longer one; a few calls then suffice.
    """
    steps = _largest(lambda k: fits(replace(shape, num_frames=frame_multiple * k + 1)), 0, (maximum - 1) // frame_multiple)
    return 0 if steps is None else frame_multiple * steps + 1


def largest_size(fits: Callable[[Shape], bool], shape: Shape) -> tuple[int, int] | None:
    """The largest width and height that fit at this frame count and, as near as multiples of 16 allow, this aspect ratio.

    A side is 256 to 2048 pixels; a clip so wide that its other side would be less gets 256 there. None when nothing fits. `fits` must be
    true of a smaller size wherever it is true of a larger one.
    """
    longer, shorter = max(shape.width, shape.height), min(shape.width, shape.height)

    def size(units: int) -> tuple[int, int]:
        long_side = units * SIZE_MULTIPLE
        # The nearest multiple, halves up: rounding to even would not grow steadily.
        short_units = (2 * long_side * shorter + longer * SIZE_MULTIPLE) // (2 * longer * SIZE_MULTIPLE)
        short_side = max(short_units * SIZE_MULTIPLE, MIN_SIDE)
        return (long_side, short_side) if shape.width >= shape.height else (short_side, long_side)

    def is_good(units: int) -> bool:
        width, height = size(units)
        return fits(replace(shape, width=width, height=height))

    found = _largest(is_good, MIN_SIDE // SIZE_MULTIPLE, MAX_SIDE // SIZE_MULTIPLE)
    return None if found is None else size(found)


def _largest(is_good: Callable[[int], bool], least: int, most: int) -> int | None:
    """The largest number from `least` to `most` that is good, where all below a good one are; by halving."""
    if most < least or not is_good(least):
        return None
    while least < most:
        middle = (least + most + 1) // 2
        if is_good(middle):
            least = middle
        else:
            most = middle - 1
    return least


def _happens(cost: PhaseCost, shape: Shape) -> bool:
    return not cost.modes or shape.mode in cost.modes


def _phase_peak(cost: PhaseCost, shape: Shape, correction: float) -> int:
    return cost.weights_bytes + _corrected(cost.activations.bytes_at(shape), correction)


def _corrected(activation_bytes: int, correction: float) -> int:
    return activation_bytes if correction <= 1.0 else math.ceil(activation_bytes * correction)


def _explained(cost: PhaseCost, shape: Shape, correction: float) -> PhasePrediction:
    traced = cost.activations
    total = traced.bytes_at(shape)
    fixed, tokens = math.floor(traced.fixed), math.floor(traced.per_token * shape.tokens)
    peak = _phase_peak(cost, shape, correction)
    return PhasePrediction(
        phase=cost.phase.value,
        weights_bytes=cost.weights_bytes,
        fixed_bytes=fixed,
        token_bytes=tokens,
        # What is left, so that the parts add up to the byte.
        pixel_bytes=total - fixed - tokens,
        correction_bytes=peak - cost.weights_bytes - total,
        peak_bytes=peak,
    )
