"""Phr00t as the lane runtime loads it: one VACE transformer, flow-matching Euler, no guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers import FlowMatchEulerDiscreteScheduler, WanVACETransformer3DModel

from lane_phr00t import params, tiny
from runtime.lane.wan.components import DTYPES, load_part, load_shared, model_folder, place, silence_libraries
from runtime.lane.wan.keyframes import load_keyframes
from runtime.lane.wan.loaded import LoadedWanPipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diffusers import DiffusionPipeline

    from runtime.lane.renderer import Catalog, LoadSettings, Pipeline, RenderJob


class Phr00tRecipe:
    """How a request becomes a call of the VACE pipeline."""

    def prepare(self, pipe: DiffusionPipeline, job: RenderJob) -> Mapping[str, Any]:
        """Sets a new scheduler; returns prompt, keyframes and control scale. Without guidance the negative prompt is never read."""
        request = job.request
        pipe.scheduler = make_scheduler(params.flow_shift(request.lighting_variant))
        plan = params.plan_keyframes(request)
        return {
            "prompt": request.prompt,
            "guidance_scale": params.GUIDANCE_SCALE,
            "keyframes": load_keyframes(plan, job.images, height=request.height, width=request.width),
            "conditioning_scale": params.conditioning_scale(request),
        }


def make_scheduler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    """Euler over a shifted flow schedule. With 4 steps and shift 8: 1000, 942, 804, 60."""
    return FlowMatchEulerDiscreteScheduler(shift=shift)


class Phr00tCatalog:
    """Loads Phr00t."""

    def models(self) -> tuple[str, ...]:
        """Phr00t alone."""
        return (params.MODEL,)

    def load(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Loads it; raises ValueError for another model, `ModelFolderMissingError` when its checkpoint is not there."""
        if model != params.MODEL:
            msg = f"this catalog has {params.MODEL}, not {model!r}"
            raise ValueError(msg)
        silence_libraries()
        from lane_phr00t.conditioning import KeyframeVacePipeline

        folder = model_folder(model, settings.profile, settings.models_dir, build_tiny=tiny.build, on_stage=on_stage)
        dtype = DTYPES[settings.profile]
        shared = load_shared(folder, dtype, on_stage)
        on_stage("loading the transformer")
        pipe = KeyframeVacePipeline(
            tokenizer=shared.tokenizer,
            text_encoder=shared.text_encoder,
            vae=shared.vae,
            scheduler=make_scheduler(params.flow_shift(params.DEFAULT_LIGHTING)),
            transformer=load_part(WanVACETransformer3DModel, folder / "transformer", dtype),
        )
        on_stage(f"placing the weights on {settings.device}")
        place(pipe, settings.profile, settings.device)
        return LoadedWanPipeline(pipe, Phr00tRecipe())


catalog: Catalog = Phr00tCatalog()
