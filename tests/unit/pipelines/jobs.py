"""Small requests and pictures for the pipeline tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.lane.memory.host import HostMemory
from runtime.lane.renderer import LoadSettings, RenderJob
from runtime.rules.request import GenerationRequest, ImageReference

if TYPE_CHECKING:
    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.renderer import Catalog, Pipeline

WARM = ImageReference(key="inputs/warm")
COLD = ImageReference(key="inputs/cold")

_REQUEST = GenerationRequest(
    model="anisora",
    mode="t2v",
    prompt="a fox runs over a snowy hill",
    negative_prompt="",
    width=64,
    height=64,
    seed=7,
    output_format="mp4",
    num_frames=9,
    fps=16,
    steps=8,
    cfg_scale=1.0,
    guidance_scale=1.0,
    motion_score=3.0,
    lighting_variant="low_noise",
    reference_strength=0.85,
    denoising_strength=0.7,
    first_strength=1.0,
    last_strength=1.0,
)


def make_request(model: str, mode: str = "t2v", **changes: Any) -> GenerationRequest:
    """An effective request of 9 frames of 64x64 with the images that its mode needs."""
    fields: dict[str, Any] = {"steps": {"anisora": 8, "phr00t": 4}[model]}
    if mode == "i2v":
        fields["reference_image"] = WARM
    if mode == "first_last_frame":
        fields |= {"first_frame_image": WARM, "last_frame_image": COLD}
    return replace(_REQUEST, model=model, mode=mode, **(fields | changes))


def make_pictures() -> dict[str, Image.Image]:
    """Two pictures that have little in common, of other sizes than the clip."""
    rows, columns = np.mgrid[0:90, 0:120]
    warm = np.stack([columns * 2, rows, np.zeros_like(rows)], axis=-1)
    squares = ((rows // 15 + columns // 15) % 2)[..., None]
    cold = np.where(squares == 0, [10, 60, 240], [200, 240, 250])
    return {key.key: Image.fromarray(pixels.astype(np.uint8)) for key, pixels in ((WARM, warm), (COLD, cold))}


def make_job(
    request: GenerationRequest,
    on_step: Callable[[int, int], None] = lambda _step, _steps: None,
    check: Callable[[], None] = lambda: None,
    *,
    placement: str = "resident_all",
    on_phase: Callable[[MemoryPhase], None] = lambda _phase: None,
) -> RenderJob:
    """The request with both pictures at hand."""
    return RenderJob(request=request, images=make_pictures(), placement=BY_NAME[placement], on_phase=on_phase, on_step=on_step, check=check)


def settings(models_dir: Path, profile: str = "tiny", memory: DeviceMemory | None = None, *, is_host_poor: bool = False) -> LoadSettings:
    """Load settings for the CPU."""
    return LoadSettings(profile=profile, models_dir=models_dir, memory=memory or HostMemory(), is_host_poor=is_host_poor)


def load(catalog: Catalog, model: str, load_settings: LoadSettings, on_stage: Callable[[str], None] | None = None) -> Pipeline:
    """Reads and assembles."""
    weights = catalog.read(model, load_settings, on_stage or ignore_stage)
    return catalog.assemble(model, weights, load_settings, on_stage or ignore_stage)


def ignore_stage(_stage: str) -> None:
    """For tests that do not look at stages."""


def inner(pipeline: Pipeline) -> Any:
    """The diffusers pipeline inside."""
    return vars(pipeline)["_pipe"]
