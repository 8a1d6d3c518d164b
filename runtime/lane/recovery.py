"""Which placement a try uses, and which one the next try after it ran out of memory: pure functions of numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from runtime.fit.cost import DeviceLimits, ModelLadder, Rung, Shape
from runtime.fit.placement import MemoryPhase
from runtime.fit.predict import Choice, choose, explain, peak_bytes
from runtime.lane.outcome import OutOfMemory

MAX_TRIES = 2
"""Of one attempt: the first, and one on a leaner placement after the memory ran out."""


def limits_now(limits: DeviceLimits, free_bytes: int | None, reserved_bytes: int | None) -> DeviceLimits:
    """The limits as they are now: another process may have taken memory since they were measured.

    What libraries loaded since then came out of the margin. Only when less than the budget can be had is something else there, and then a
    margin is kept free of what is left: as much as is missing, up to a whole one.

    Args:
        limits: as measured at the start.
        free_bytes: of the device now, by the driver; None where it does not tell.
        reserved_bytes: that torch's allocator has taken of it for this process.
    """
    if free_bytes is None or reserved_bytes is None:
        return limits
    reachable_bytes = free_bytes + reserved_bytes
    missing_bytes = limits.budget_bytes - reachable_bytes
    if missing_bytes <= 0:
        return limits
    # Not a whole margin at once: the last byte that a library loads must not take half a gigabyte from the budget.
    kept_bytes = min(limits.margin_bytes, missing_bytes)
    return replace(limits, other_bytes=limits.total_bytes - limits.margin_bytes - (reachable_bytes - kept_bytes))


def first_choice(ladder: ModelLadder, limits: DeviceLimits, shape: Shape, *, ordered: str, ordered_peak_bytes: int) -> Choice:
    """The placement of the first try: the ordered one if it fits, else the fastest that is leaner and fits, else the leanest there is.

    The leanest is tried also when it should not fit: a prediction is made to be too high rather than too low.

    Args:
        ladder: of the model on this device.
        limits: of the device now.
        shape: of the request.
        ordered: placement that admission named; empty, or one that this ladder does not have: the lane chooses.
        ordered_peak_bytes: predicted for it by admission, which knows what was measured before; 0: not predicted.
    """
    start = _index(ladder, ordered)
    if start is None:
        return choose(ladder, limits, shape) or _leanest(ladder.rungs, shape)
    rung = ladder.rungs[start]
    predicted = max(peak_bytes(rung, shape), ordered_peak_bytes)
    if predicted <= limits.budget_bytes:
        return Choice(rung=rung, peak_bytes=predicted)
    leaner = replace(ladder, rungs=ladder.rungs[start + 1 :])
    return choose(leaner, limits, shape) or _leanest(ladder.rungs[start:], shape)


def next_choice(ladder: ModelLadder, limits: DeviceLimits, shape: Shape, ran_out: OutOfMemory) -> Choice | None:
    """The placement of the next try: of those below the failed one that need less in the phase that ran out, the fastest that fits.

    Fits means with an eighth of the budget to spare: the prediction was just proven wrong, and there is no other try after this one. If
    none does, the leanest of them; None when none needs less.

    Args:
        ladder: of the model on this device.
        limits: of the device now.
        shape: of the request.
        ran_out: where the memory ran out.
    """
    start, phase = _index(ladder, ran_out.placement), MemoryPhase(ran_out.phase)
    if start is None:
        return None
    needed = _phase_bytes(ladder.rungs[start], shape, phase)
    leaner = tuple(rung for rung in ladder.rungs[start + 1 :] if _phase_bytes(rung, shape, phase) < needed)
    if not leaner:
        return None
    careful = replace(limits, margin_bytes=limits.margin_bytes + limits.budget_bytes // 8)
    return choose(replace(ladder, rungs=leaner), careful, shape) or _leanest(leaner, shape)


def _index(ladder: ModelLadder, placement: str) -> int | None:
    return next((index for index, rung in enumerate(ladder.rungs) if rung.placement == placement), None)


def _leanest(rungs: Iterable[Rung], shape: Shape) -> Choice:
    choices = (Choice(rung=rung, peak_bytes=peak_bytes(rung, shape)) for rung in rungs)
    return min(choices, key=lambda choice: choice.peak_bytes)


def _phase_bytes(rung: Rung, shape: Shape, phase: MemoryPhase) -> int:
    """Predicted for one phase; for one that is not predicted, such as the load, for the whole render."""
    found = [part.peak_bytes for part in explain(rung, shape) if part.phase == phase]
    return max(found, default=peak_bytes(rung, shape))
