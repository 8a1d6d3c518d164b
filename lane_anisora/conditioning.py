"""AniSora's conditioning: keyframes anywhere in the clip become the 20 condition channels, the way the authors' code does it.

One mechanism serves every mode (facts/models.md, section 1): a sparse video holds each keyframe at its frame, the VAE encodes it once, and
a mask of four channels says which frames are keyframes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from diffusers.utils.torch_utils import randn_tensor

from lane_anisora import params
from runtime.lane.wan.keyframes import sparse_video
from runtime.lane.wan.latents import SPATIAL_STRIDE, TEMPORAL_STRIDE, encode_video, latent_frame_count, latent_frame_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from diffusers import AutoencoderKLWan

    from runtime.lane.wan.keyframes import Keyframe


def fold_mask(frame_indexes: Iterable[int], num_frames: int, *, latent_height: int, latent_width: int) -> torch.Tensor:
    """The binary mask [1, 4, T, latent_height, latent_width], float32, of a clip of 4k+1 frames.

    Channel c of latent frame t > 0 stands for frame 4(t-1)+1+c. The first frame has a latent frame alone and is repeated to fill its four
    channels; so a keyframe in the middle or at the end sets one channel of four, the first frame sets all.
    """
    mask = torch.zeros(1, num_frames, latent_height, latent_width)
    for index in frame_indexes:
        mask[:, index] = 1.0
    repeated = torch.cat([mask[:, :1].expand(-1, TEMPORAL_STRIDE, -1, -1), mask[:, 1:]], dim=1)
    return repeated.reshape(1, -1, TEMPORAL_STRIDE, latent_height, latent_width).transpose(1, 2)


def encode_condition(
    vae: AutoencoderKLWan, keyframes: Sequence[Keyframe], num_frames: int, *, height: int, width: int, device: torch.device
) -> torch.Tensor:
    """The condition [1, 20, T, height/8, width/8], float32: 4 mask channels, then 16 latent channels of the sparse video.

    The latents of a keyframe's latent frame are scaled by its strength; the mask stays binary. No keyframes give an empty condition.
    """
    frames = {keyframe.frame_index: keyframe.pixels for keyframe in keyframes}
    video = sparse_video(frames, num_frames, height=height, width=width, device=device, dtype=vae.dtype)
    strengths = torch.ones(latent_frame_count(num_frames))
    for keyframe in keyframes:
        strengths[latent_frame_index(keyframe.frame_index)] = keyframe.strength
    latents = encode_video(vae, video).to(device) * strengths.to(device).view(1, 1, -1, 1, 1)
    mask = fold_mask(frames, num_frames, latent_height=height // SPATIAL_STRIDE, latent_width=width // SPATIAL_STRIDE)
    return torch.cat([mask.to(device), latents], dim=1)


class KeyframeVideoPipeline(WanImageToVideoPipeline):  # type: ignore[misc]  # diffusers is not followed by mypy
    """diffusers' image-to-video pipeline with keyframes at any frame, or none, in place of one first and one last image."""

    flow_shift = params.FLOW_SHIFT
    _condition: torch.Tensor | None = None

    def needs_encoding(self, keyframes: Sequence[Keyframe]) -> bool:
        """Always: a clip without keyframes has the condition of an empty video."""
        return True

    def encode_keyframes(self, keyframes: Sequence[Keyframe], num_frames: int, height: int, width: int) -> torch.Tensor:
        """The condition of these keyframes, for the call."""
        return encode_condition(self.vae, keyframes, num_frames, height=height, width=width, device=self._execution_device)

    def __call__(self, *, condition: torch.Tensor, height: int, width: int, **arguments: Any) -> Any:
        """Runs the base pipeline with this condition; the other arguments are the base class's, without `image` and `last_image`."""
        self._condition = condition
        # The base class demands an image of this size and hands it to `prepare_latents`, which uses the condition instead.
        unused = torch.zeros(1, 3, 1, 1).expand(1, 3, height, width)
        try:
            return super().__call__(image=unused, height=height, width=width, **arguments)
        finally:
            self._condition = None

    def prepare_latents(  # noqa: PLR0913  # the base class's signature
        self,
        image: torch.Tensor,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
        latents: torch.Tensor | None = None,
        last_image: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise and the condition; called by the base class."""
        if latents is None:
            size = (height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)
            shape = (batch_size, num_channels_latents, latent_frame_count(num_frames), *size)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        if self._condition is None:
            msg = "there is no condition outside a call"
            raise RuntimeError(msg)
        return latents, self._condition.to(dtype).expand(batch_size, -1, -1, -1, -1)


class TextToVideoPipeline(WanPipeline):  # type: ignore[misc]  # diffusers is not followed by mypy
    """diffusers' text-to-video pipeline as the lane runtime calls one: nothing is encoded for it, and nothing but noise goes in."""

    flow_shift = params.TEXT_TO_VIDEO_FLOW_SHIFT

    def needs_encoding(self, keyframes: Sequence[Keyframe]) -> bool:
        """Never."""
        return False

    def __call__(self, *, condition: None, **arguments: Any) -> Any:  # there is none
        """Runs the base pipeline; the arguments are the base class's."""
        return super().__call__(**arguments)
