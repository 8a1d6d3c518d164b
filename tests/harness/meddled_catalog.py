"""The tiny pipelines with faults for tests of the memory's care, in a real pipeline process; the prompt says what happens.

`runs out in PHASE`: once, when the phase has begun, all that is free on the device is taken, so that the phase's own work runs out of
memory. `runs out twice in PHASE`: in the next render too. `runs out in PHASE and dies`: the process is killed in the next render. `keeps N
MiB`: so much more stays on the device after each render.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from degraded_pool.catalog import catalog as both
from runtime.fit.cost import Activations
from runtime.fit.placement import MemoryPhase

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from runtime.fit.cost import ModelLadder
    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.renderer import Catalog, HostWeights, LoadSettings, Pipeline, RenderJob

_LEAK = re.compile(r"keeps (?P<mib>[0-9]+) MiB")
_leaked: list[torch.Tensor] = []
_PROMPT = re.compile(r"runs out (?P<twice>twice )?in (?P<phase>[a-z]+)(?P<dies> and dies)?")


class MeddledPipeline:
    """A real pipeline to which the prompt's misfortune happens."""

    def __init__(self, pipeline: Pipeline, memory: DeviceMemory, renders: Counter[str]) -> None:
        """Takes over the pipeline; `renders` counts those of each model and prompt in this process."""
        self._pipeline = pipeline
        self._memory = memory
        self._renders = renders

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """Renders under what the prompt says."""
        prompt = job.request.prompt
        if leak := _LEAK.fullmatch(prompt):
            _leaked.append(self._memory.allocate(int(leak["mib"]) * 1024**2))
        wish = _PROMPT.fullmatch(prompt)
        if wish is None:
            return self._pipeline.render(job)
        key = f"{job.request.model} {prompt}"
        self._renders[key] += 1
        if wish["dies"] and self._renders[key] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._renders[key] > (2 if wish["twice"] else 1):
            return self._pipeline.render(job)
        ballast: list[torch.Tensor] = []

        def on_phase(phase: MemoryPhase) -> None:
            job.on_phase(phase)
            if phase == wish["phase"]:
                ballast.append(self._memory.allocate(self._memory.figures().driver_free_bytes or 0))

        try:
            return self._pipeline.render(replace(job, on_phase=on_phase))
        finally:
            ballast.clear()

    def weight_bytes(self) -> int:
        """The pipeline's."""
        return self._pipeline.weight_bytes()

    def release(self) -> None:
        """The pipeline's."""
        self._pipeline.release()


class KeepingPipeline(MeddledPipeline):
    """One whose release keeps everything."""

    def release(self) -> None:
        """Does nothing."""


class MeddledCatalog:
    """Both tiny models, as pipelines of one of the classes above."""

    def __init__(self, kind: type[MeddledPipeline], *, weighs_only: bool = False) -> None:
        """Nothing was rendered yet. `weighs_only`: the ladders know nothing of activations, so every ordered placement is tried."""
        self._kind = kind
        self._weighs_only = weighs_only
        self._renders: Counter[str] = Counter()
        self._kept: list[Pipeline] = []

    def models(self) -> tuple[str, ...]:
        """Both."""
        return both.models()

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """The real one, or that of the weights."""
        ladder = both.ladder(model, settings)
        if not self._weighs_only:
            return ladder
        rungs = (replace(rung, phases=tuple(replace(cost, activations=Activations()) for cost in rung.phases)) for rung in ladder.rungs)
        return replace(ladder, rungs=tuple(rungs))

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """The real ones."""
        return both.read(model, settings, on_stage)

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """The real one, wrapped."""
        pipeline = both.assemble(model, weights, settings, on_stage)
        if self._kind is KeepingPipeline:
            self._kept.append(pipeline)
        return self._kind(pipeline, settings.memory, self._renders)


catalog: Catalog = MeddledCatalog(MeddledPipeline)
weighing: Catalog = MeddledCatalog(MeddledPipeline, weighs_only=True)
keeping: Catalog = MeddledCatalog(KeepingPipeline, weighs_only=True)
