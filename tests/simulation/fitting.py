"""Fit, worked out naively from what lanes said: a second opinion on every refusal and every lease."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from admission.core.fit import FitRules
from admission.core.learned import Place
from admission.core.tasks import Model, Task
from runtime.rules.catalogue import MODELS
from tests.harness.memory import worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from admission.core.state import Lane, State
    from runtime.fit.cost import Rung

Asked = tuple[int, int, int, str]
"""Width, height, frames and mode."""

_BASELINE_MIB = 3000
FIT_RULES = FitRules(
    baseline=worker(_BASELINE_MIB, *MODELS, gpu="Baseline"),
    frame_multiples={Model(rules.id): rules.frame_multiple for rules in MODELS.values()},
    modes={Model(rules.id): rules.modes for rules in MODELS.values()},
)


def asked(task: Task) -> Asked:
    """The shape of a task."""
    width, height, frames = (int(str(task.parameters[name])) for name in ("width", "height", "num_frames"))
    return width, height, frames, task.mode


def fits(state: State, lane: Lane, model: Model, shape: Asked, *, placement: str = "") -> bool:
    """Whether a rung that is in use (or this one) has room; a lane that never said what it has takes anything."""
    memory = lane.spec.memory
    if memory is None:
        return True
    budget = memory.limits.total_bytes - memory.limits.other_bytes - memory.limits.margin_bytes
    rungs = [rung for ladder in memory.ladders if ladder.model == model for rung in ladder.rungs]
    left = [rung for rung in rungs if (model, rung.placement) not in lane.retired]
    return any(_peak(state, memory.limits.gpu, model, rung, shape) <= budget for rung in left if placement in ("", rung.placement))


def is_possible(state: State, model: Model, shape: Asked) -> bool:
    """Whether some known lane of the model has room; while none has said what it has, whether the baseline would."""
    lanes = [lane for lane in state.lanes.values() if model in lane.spec.models]
    if any(lane.spec.memory is not None for lane in lanes):
        return any(fits(state, lane, model, shape) for lane in lanes)
    rungs = [rung for ladder in worker(_BASELINE_MIB, model).ladders for rung in ladder.rungs]
    return any(_peak(state, "Baseline", model, rung, shape) <= _BASELINE_MIB * 1024**2 for rung in rungs)


def _peak(state: State, gpu: str, model: Model, rung: Rung, shape: Asked) -> int:
    width, height, frames, mode = shape
    tokens = ((frames - 1) // 4 + 1) * (width // 16) * (height // 16)
    excesses = state.fits.excesses(Place(gpu, model, rung.placement))
    peaks = []
    for cost in rung.phases:
        if not cost.modes or mode in cost.modes:
            of = cost.activations
            size = of.fixed + of.per_token * tokens + (of.per_pixel + of.per_frame_pixel * frames) * width * height
            peaks.append(cost.weights_bytes + math.ceil(size) + _excess(excesses.get(cost.phase, {}), math.ceil(size)))
    return max(peaks)


def _excess(known: Mapping[int, int], size: int) -> int:
    """In plain words: of the smallest class when all are larger; else the most of those that are not; beyond all of them up to twice."""
    if not known:
        return 0
    bits = len(f"{size:b}") if size else 0
    if all(one > bits for one in known):
        return known[min(known)]
    most = max(known[one] for one in known if one <= bits)
    return most if bits <= max(known) else min(2 * most, int(most * size // 2 ** max(known)))
