"""What Fit needs of the rules of requests and of the known GPUs, as the core takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from admission.core.fit import FitRules, ShapeKey
from admission.core.tasks import Model
from runtime.fit.cost import WorkerMemory
from runtime.fit.gpus import GPUS, baseline_ladders
from runtime.rules.catalogue import FIELDS, MODELS, SIZE_MULTIPLE

if TYPE_CHECKING:
    from runtime.rules.request import GenerationRequest

_MAX_FRAMES = next(int(rule.maximum) for rule in FIELDS if rule.name == "num_frames" and rule.maximum is not None)


def fit_rules(baseline_gpu: str) -> FitRules:
    """The rules with this GPU as the baseline; a name of `runtime.fit.gpus.GPUS`."""
    return FitRules(
        baseline=WorkerMemory(limits=GPUS[baseline_gpu], ladders=baseline_ladders()),
        frame_multiples={Model(rules.id): rules.frame_multiple for rules in MODELS.values()},
        modes={Model(rules.id): rules.modes for rules in MODELS.values()},
        max_frames=_MAX_FRAMES,
    )


def shape_key(request: GenerationRequest) -> ShapeKey:
    """Of the request as `runtime.rules.effective` makes it, in a part of its time: under overload most requests come no further."""
    multiple = MODELS[request.model].frame_multiple
    return (
        request.width // SIZE_MULTIPLE * SIZE_MULTIPLE,
        request.height // SIZE_MULTIPLE * SIZE_MULTIPLE,
        (request.num_frames - 1) // multiple * multiple + 1,
        request.mode,
    )
