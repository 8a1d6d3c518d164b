"""Between pixels and the Wan VAE's normalised latents, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt
    from diffusers import AutoencoderKLWan

TEMPORAL_STRIDE = 4
"""Frames of the clip per latent frame; the first frame has a latent frame of its own (the VAE is causal)."""

SPATIAL_STRIDE = 8
"""Pixels per latent cell, in height and width."""


def latent_frame_count(num_frames: int) -> int:
    """Latent frames of a clip of 4k+1 frames."""
    return (num_frames - 1) // TEMPORAL_STRIDE + 1


def latent_frame_index(frame_index: int) -> int:
    """The latent frame that holds a frame of the clip: 0 holds frame 0, 1 holds frames 1 to 4, 2 holds 5 to 8."""
    return (frame_index + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE


def encode_video(vae: AutoencoderKLWan, video: torch.Tensor) -> torch.Tensor:
    """Encodes pixels [1, 3, F, H, W] in -1..1 to normalised latents [1, z, T, H/8, W/8], float32; the posterior's mode, so not random."""
    latents: torch.Tensor = vae.encode(video.to(vae.dtype)).latent_dist.mode().to(torch.float32)
    mean, deviation = _statistics(vae, latents.device)
    return (latents - mean) / deviation


def decode_frames(vae: AutoencoderKLWan, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Decodes normalised latents [1, z, T, h, w] to uint8 RGB [F, H, W, 3].

    Raises:
        FloatingPointError: the latents are not finite; the model overflowed and the picture would be black.
    """
    if not bool(torch.isfinite(latents).all()):
        msg = "the model gave latents that are not finite numbers"
        raise FloatingPointError(msg)
    mean, deviation = _statistics(vae, latents.device)
    scaled = (latents.to(torch.float32) * deviation + mean).to(vae.dtype)
    video: torch.Tensor = vae.decode(scaled, return_dict=False)[0]
    _, _, num_frames, height, width = video.shape
    frames = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    for index in range(num_frames):  # frame by frame: a whole clip in float32 is 0.9 GB at 1280x720x81
        frame = video[0, :, index].to(torch.float32).add(1.0).mul(127.5).round_().clamp_(0.0, 255.0)
        frames[index] = frame.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return frames


def _statistics(vae: AutoencoderKLWan, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The VAE's latent mean and standard deviation, float32 [1, z, 1, 1, 1]."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, dtype=torch.float32, device=device).view(shape)
    deviation = torch.tensor(vae.config.latents_std, dtype=torch.float32, device=device).view(shape)
    return mean, deviation
