"""Phr00t as the lane runtime loads it: one VACE transformer, flow-matching Euler, no guidance."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from diffusers import FlowMatchEulerDiscreteScheduler, WanVACETransformer3DModel

from lane_phr00t import params, tiny
from runtime.lane.wan.catalog import PartSource, WanCatalog
from runtime.lane.wan.keyframes import load_keyframes
from runtime.lane.wan.loaded import Preparation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from diffusers import DiffusionPipeline

    from runtime.lane.renderer import Catalog, RenderJob


class Phr00tRecipe:
    """How a request becomes a call of the VACE pipeline."""

    def prepare(self, pipe: DiffusionPipeline, job: RenderJob) -> Preparation:
        """Sets a new scheduler; gives prompt, keyframes and control scale. Without guidance the negative prompt is never read."""
        request = job.request
        pipe.scheduler = make_scheduler(params.flow_shift(request.lighting_variant))
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


def make_scheduler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    """Euler over a shifted flow schedule. With 4 steps and shift 8: 1000, 942, 804, 60."""
    return FlowMatchEulerDiscreteScheduler(shift=shift)


class Phr00tModel:
    """What makes a Wan model Phr00t."""

    name = params.MODEL
    transformers = MappingProxyType({"transformer": PartSource(title="the transformer", part_class=WanVACETransformer3DModel)})
    recipe = Phr00tRecipe()

    def build_tiny(self, folder: Path) -> None:
        """Saves tiny parts into an empty folder."""
        tiny.build(folder)

    def make_pipeline(self, components: Mapping[str, Any]) -> DiffusionPipeline:
        """The keyframe pipeline."""
        from lane_phr00t.conditioning import KeyframeVacePipeline

        return KeyframeVacePipeline(scheduler=make_scheduler(params.flow_shift(params.DEFAULT_LIGHTING)), **components)


catalog: Catalog = WanCatalog(Phr00tModel())
