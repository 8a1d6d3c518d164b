"""Phr00t as the lane runtime loads it: one VACE transformer, the sampler that its version is advised with, no guidance."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from diffusers import WanVACETransformer3DModel

from lane_phr00t import params, tiny
from lane_phr00t.schedulers import BetaFlowScheduler, FlowDpmSolverSdeScheduler, FlowEulerAncestralScheduler
from runtime.lane.wan.catalog import PartSource, WanCatalog
from runtime.lane.wan.keyframes import load_keyframes
from runtime.lane.wan.loaded import Preparation

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import DiffusionPipeline

    from runtime.lane.renderer import Catalog, RenderJob


class Phr00tRecipe:
    """How a request becomes a call of the VACE pipeline."""

    def __init__(self, sampler: params.Sampler) -> None:
        """Renders with this sampler."""
        self._sampler = sampler

    def prepare(self, pipe: DiffusionPipeline, job: RenderJob) -> Preparation:
        """Sets a new scheduler; gives prompt, keyframes and control scale. Without guidance the negative prompt is never read."""
        request = job.request
        pipe.scheduler = make_scheduler(params.flow_shift(request.lighting_variant), self._sampler)
        keyframes = load_keyframes(params.plan_keyframes(request), job.images, height=request.height, width=request.width)
        return Preparation(
            prompt=request.prompt,
            negative_prompt="",
            guidance_scale=params.GUIDANCE_SCALE,
            keyframes=keyframes,
            arguments={
                "known_frames": tuple(keyframe.frame_index for keyframe in keyframes),
                "conditioning_scale": params.conditioning_scale(request),
            },
        )


_SCHEDULERS: Mapping[params.Sampler, type[BetaFlowScheduler]] = MappingProxyType(
    {params.Sampler.EULER_ANCESTRAL: FlowEulerAncestralScheduler, params.Sampler.DPM_SOLVER_SDE: FlowDpmSolverSdeScheduler}
)


def make_scheduler(shift: float, sampler: params.Sampler) -> BetaFlowScheduler:
    """A new one of this sampler. With 4 steps and shift 8 it begins a step at 1000, 974, 889 and 632."""
    scheduler: BetaFlowScheduler = _SCHEDULERS[sampler](shift=shift)
    return scheduler


def scheduler_with_most_state() -> BetaFlowScheduler:
    """The one that keeps the most on the device while the transformer works: memory is predicted with it, whichever a checkpoint needs."""
    return make_scheduler(params.flow_shift(params.DEFAULT_LIGHTING), params.Sampler.DPM_SOLVER_SDE)


class Phr00tModel:
    """What makes a Wan model Phr00t."""

    name = params.MODEL
    transformers = MappingProxyType({"transformer": PartSource(title="the transformer", part_class=WanVACETransformer3DModel)})

    def make_recipe(self, variant: str) -> Phr00tRecipe:
        """With the sampler that is advised for this version; raises ValueError for one that none of ours is advised for."""
        return Phr00tRecipe(params.advised_sampler(variant))

    def build_tiny(self, folder: Path) -> None:
        """Saves tiny parts into an empty folder."""
        tiny.build(folder)

    def make_pipeline(self, components: Mapping[str, Any]) -> DiffusionPipeline:
        """The keyframe pipeline."""
        from lane_phr00t.conditioning import KeyframeVacePipeline

        return KeyframeVacePipeline(scheduler=None, **components)

    def make_text_to_video(self, components: Mapping[str, Any]) -> None:
        """None: the transformer is for every mode."""


catalog: Catalog = WanCatalog(Phr00tModel())
