"""AniSora as the lane runtime loads it: two experts, UniPC, one keyframe mechanism for every mode."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from diffusers import UniPCMultistepScheduler, WanTransformer3DModel

from lane_anisora import params, tiny
from runtime.lane.wan.catalog import PartSource, WanCatalog
from runtime.lane.wan.keyframes import load_keyframes
from runtime.lane.wan.loaded import MAX_PROMPT_TOKENS, Preparation
from runtime.lane.wan.prompts import join_prompt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from diffusers import DiffusionPipeline

    from runtime.lane.renderer import Catalog, RenderJob


class AnisoraRecipe:
    """How a request becomes a call of the keyframe pipeline."""

    def prepare(self, pipe: DiffusionPipeline, job: RenderJob) -> Preparation:
        """Sets a new scheduler; gives prompt, guidance and keyframes."""
        request = job.request
        pipe.scheduler = make_scheduler(pipe.flow_shift)
        suffix = params.prompt_suffix(request.motion_score)
        plan = params.plan_keyframes(request)
        return Preparation(
            prompt=join_prompt(request.prompt, suffix, pipe.tokenizer, max_tokens=MAX_PROMPT_TOKENS),
            negative_prompt=request.negative_prompt,
            guidance_scale=request.guidance_scale,
            keyframes=load_keyframes(plan, job.images, height=request.height, width=request.width),
        )


def make_scheduler(shift: float = params.FLOW_SHIFT) -> UniPCMultistepScheduler:
    """The authors' sampler: UniPC over a shifted flow schedule. With 8 steps and shift 5: 999, 972, 937, 893, 833, 750, 625, 418."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


scheduler_with_most_state = make_scheduler
"""Memory is predicted with it. There is no other."""


class AnisoraModel:
    """What makes a Wan model AniSora."""

    name = params.MODEL
    transformers = MappingProxyType(
        {
            "transformer": PartSource(title="the high-noise expert", part_class=WanTransformer3DModel),
            "transformer_2": PartSource(title="the low-noise expert", part_class=WanTransformer3DModel),
            "t2v_transformer": PartSource(
                title="the high-noise expert of text to video", part_class=WanTransformer3DModel, text_to_video_of="transformer"
            ),
            "t2v_transformer_2": PartSource(
                title="the low-noise expert of text to video", part_class=WanTransformer3DModel, text_to_video_of="transformer_2"
            ),
        }
    )

    def make_recipe(self, variant: str) -> AnisoraRecipe:  # all variants are sampled alike
        """How requests become calls."""
        return AnisoraRecipe()

    def build_tiny(self, folder: Path) -> None:
        """Saves tiny parts into an empty folder."""
        tiny.build(folder)

    def make_pipeline(self, components: Mapping[str, Any]) -> DiffusionPipeline:
        """The keyframe pipeline."""
        # Imported here, after the libraries were silenced: the base class's module prints advice about a package that it does not need.
        from lane_anisora.conditioning import KeyframeVideoPipeline

        return KeyframeVideoPipeline(scheduler=None, boundary_ratio=params.BOUNDARY_RATIO, **components)

    def make_text_to_video(self, components: Mapping[str, Any]) -> DiffusionPipeline:
        """The plain text-to-video pipeline, with the boundary of its pair."""
        from lane_anisora.conditioning import TextToVideoPipeline

        return TextToVideoPipeline(scheduler=None, boundary_ratio=params.TEXT_TO_VIDEO_BOUNDARY_RATIO, **components)


catalog: Catalog = WanCatalog(AnisoraModel())
