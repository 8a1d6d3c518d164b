"""Phr00t's conditioning: keyframes become VACE's control channels, without the full-size copies that the base pipeline makes.

VACE's control input has 96 channels: 32 of latents (16 of what is known, 16 of what shall change) and 64 of mask. Where nothing is known,
the control video is mid-grey, which is 0 in the VAE's range (facts/models.md, section 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import WanVACEPipeline

from runtime.lane.wan.keyframes import empty_video, sparse_video
from runtime.lane.wan.latents import SPATIAL_STRIDE, encode_video, latent_frame_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from diffusers import AutoencoderKLWan, WanVACETransformer3DModel
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

    from lane_phr00t.schedulers import BetaFlowScheduler
    from runtime.lane.wan.keyframes import Keyframe


def frame_mask(known: Iterable[int], num_frames: int, *, height: int, width: int, device: torch.device) -> torch.Tensor:
    """The mask [1, 1, num_frames, height, width], float32: 0 (black) keeps a known frame, 1 (white) generates."""
    mask = torch.ones(1, 1, num_frames, 1, 1, device=device)
    for index in known:
        mask[:, :, index] = 0.0
    return mask.expand(1, 1, num_frames, height, width)


def encode_control(vae: AutoencoderKLWan, video: torch.Tensor) -> torch.Tensor:
    """The 32 latent channels [1, 32, T, h, w], in the VAE's type, of a control video that is mid-grey wherever nothing is known.

    As the known pixels are the video itself and the pixels to change are all mid-grey, only the first needs the real video.
    """
    _, _, num_frames, height, width = video.shape
    grey = empty_video(num_frames, height=height, width=width, device=video.device, dtype=video.dtype)
    return torch.cat([encode_video(vae, video), encode_video(vae, grey)], dim=1).to(vae.dtype)


class KeyframeVacePipeline(WanVACEPipeline):  # type: ignore[misc]  # diffusers is not followed by mypy
    """diffusers' VACE pipeline with keyframes at any frame, or none, in place of a control video and mask."""

    _control: torch.Tensor | None = None
    _known_frames: tuple[int, ...] = ()

    def __init__(  # diffusers reads the component names from the signature
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: UMT5EncoderModel,
        vae: AutoencoderKLWan,
        scheduler: BetaFlowScheduler | None,
        transformer: WanVACETransformer3DModel | None = None,
        transformer_2: WanVACETransformer3DModel | None = None,
        boundary_ratio: float | None = None,
    ) -> None:
        """Takes the base class's components; the strides come from the VAE's config, as in diffusers' other Wan pipelines."""
        super().__init__(tokenizer, text_encoder, vae, scheduler, transformer, transformer_2, boundary_ratio)
        self.vae_scale_factor_temporal = vae.config.scale_factor_temporal
        self.vae_scale_factor_spatial = vae.config.scale_factor_spatial

    def needs_encoding(self, keyframes: Sequence[Keyframe]) -> bool:
        """Not without keyframes: the control branch counts nothing then."""
        return bool(keyframes)

    def encode_keyframes(self, keyframes: Sequence[Keyframe], num_frames: int, height: int, width: int) -> torch.Tensor:
        """The 32 latent channels of the control video, for the call. Each keyframe is blended toward mid-grey by its strength."""
        frames = {keyframe.frame_index: keyframe.pixels * keyframe.strength for keyframe in keyframes}
        device = self._execution_device
        return encode_control(self.vae, sparse_video(frames, num_frames, height=height, width=width, device=device, dtype=self.vae.dtype))

    def __call__(
        self,
        *,
        condition: torch.Tensor | None,
        known_frames: Sequence[int],
        conditioning_scale: float,
        generator: torch.Generator,
        **arguments: Any,
    ) -> Any:
        """Runs the base pipeline with these control latents, which hold the known frames, and this scale of the control branch.

        Without control latents the scale is 0 whatever was asked. The generator gives the first noise and then that of the steps, for which
        the base class passes none. The other arguments are the base class's, without `video`, `mask` and `reference_images`.
        """
        self._control, self._known_frames = condition, tuple(known_frames)
        self.scheduler.noise_source = generator
        scale = conditioning_scale if condition is not None else 0.0
        try:
            return super().__call__(conditioning_scale=scale, generator=generator, **arguments)
        finally:
            self._control, self._known_frames = None, ()

    def preprocess_conditions(  # noqa: PLR0913  # the base class's signature
        self,
        video: None,
        mask: None,
        reference_images: None,
        batch_size: int,  # the base class renders one video at a time
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor, list[list[torch.Tensor]]]:
        """An empty video, as the control latents are there already, and the mask; called by the base class."""
        empty = empty_video(num_frames, height=height, width=width, device=device, dtype=dtype)
        return empty, frame_mask(self._known_frames, num_frames, height=height, width=width, device=device), [[]]

    def prepare_video_latents(
        self,
        video: torch.Tensor,  # empty
        mask: torch.Tensor,
        reference_images: list[list[torch.Tensor]] | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """The 32 latent channels of the control video; called by the base class. Zeros when nothing is known."""
        if self._control is not None:
            return self._control
        _, _, num_frames, height, width = video.shape
        shape = (1, 2 * self.vae.config.z_dim, latent_frame_count(num_frames), height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)
        return torch.zeros(shape, dtype=self.vae.dtype, device=device)
