"""AniSora as the lane runtime loads it: two experts, UniPC, one keyframe mechanism for every mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers import UniPCMultistepScheduler, WanTransformer3DModel

from lane_anisora import params, tiny
from runtime.lane.wan.components import DTYPES, load_part, load_shared, model_folder, place, silence_libraries
from runtime.lane.wan.keyframes import load_keyframes
from runtime.lane.wan.loaded import MAX_PROMPT_TOKENS, LoadedWanPipeline
from runtime.lane.wan.prompts import join_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from diffusers import DiffusionPipeline

    from runtime.lane.renderer import Catalog, LoadSettings, Pipeline, RenderJob


class AnisoraRecipe:
    """How a request becomes a call of the keyframe pipeline."""

    def prepare(self, pipe: DiffusionPipeline, job: RenderJob) -> Mapping[str, Any]:
        """Sets a new scheduler; returns prompt, guidance and keyframes."""
        request = job.request
        pipe.scheduler = make_scheduler()
        suffix = params.prompt_suffix(request.motion_score)
        plan = params.plan_keyframes(request)
        return {
            "prompt": join_prompt(request.prompt, suffix, pipe.tokenizer, max_tokens=MAX_PROMPT_TOKENS),
            "negative_prompt": request.negative_prompt,
            "guidance_scale": request.guidance_scale,
            "keyframes": load_keyframes(plan, job.images, height=request.height, width=request.width),
        }


def make_scheduler() -> UniPCMultistepScheduler:
    """The authors' sampler: UniPC over a shifted flow schedule. With 8 steps: 999, 972, 937, 893, 833, 750, 625, 418."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=params.FLOW_SHIFT)


class AnisoraCatalog:
    """Loads AniSora."""

    def models(self) -> tuple[str, ...]:
        """AniSora alone."""
        return (params.MODEL,)

    def load(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Loads it; raises ValueError for another model, `ModelFolderMissingError` when its checkpoint is not there."""
        if model != params.MODEL:
            msg = f"this catalog has {params.MODEL}, not {model!r}"
            raise ValueError(msg)
        silence_libraries()
        # Imported here, after the libraries were silenced: the base class's module prints advice about a package that it does not need.
        from lane_anisora.conditioning import KeyframeVideoPipeline

        folder = model_folder(model, settings.profile, settings.models_dir, build_tiny=tiny.build, on_stage=on_stage)
        dtype = DTYPES[settings.profile]
        shared = load_shared(folder, dtype, on_stage)
        on_stage("loading the high-noise expert")
        high_noise = load_part(WanTransformer3DModel, folder / "transformer", dtype)
        on_stage("loading the low-noise expert")
        low_noise = load_part(WanTransformer3DModel, folder / "transformer_2", dtype)
        pipe = KeyframeVideoPipeline(
            tokenizer=shared.tokenizer,
            text_encoder=shared.text_encoder,
            vae=shared.vae,
            scheduler=make_scheduler(),
            transformer=high_noise,
            transformer_2=low_noise,
            boundary_ratio=params.BOUNDARY_RATIO,
        )
        on_stage(f"placing the weights on {settings.device}")
        place(pipe, settings.profile, settings.device)
        return LoadedWanPipeline(pipe, AnisoraRecipe())


catalog: Catalog = AnisoraCatalog()
