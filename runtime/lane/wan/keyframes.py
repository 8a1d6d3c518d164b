"""Keyframes as pixels: decoded pictures at the clip's size, and the sparse video they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runtime.lane.wan.plan import PlannedKeyframe


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyframe:
    """A picture bound to a frame, ready for a VAE.

    Attributes:
        frame_index: 0-based, in frames of the clip.
        pixels: float32 [3, height, width] in -1..1, so 0 is mid-grey.
        strength: 0 (not at all) to 1 (fully); what it scales is the model's affair.
    """

    frame_index: int
    pixels: torch.Tensor
    strength: float


def to_pixels(image: Image.Image, *, height: int, width: int) -> torch.Tensor:
    """The picture as float32 [3, height, width] in -1..1, stretched bicubically to that size unless it has it."""
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0)


def load_keyframes(plan: Sequence[PlannedKeyframe], images: Mapping[str, Image.Image], *, height: int, width: int) -> tuple[Keyframe, ...]:
    """Turns a plan into keyframes of the clip's size. Where two share a frame, the later one stands.

    Raises:
        KeyError: `images` lacks a planned picture.
    """
    by_frame = {
        planned.frame_index: Keyframe(
            frame_index=planned.frame_index,
            pixels=to_pixels(images[planned.image.key], height=height, width=width),
            strength=planned.strength,
        )
        for planned in plan
    }
    return tuple(by_frame[index] for index in sorted(by_frame))


def empty_video(num_frames: int, *, height: int, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A mid-grey video [1, 3, num_frames, height, width] that takes no memory: one zero, seen from everywhere. Not to be written to."""
    return torch.zeros(1, device=device, dtype=dtype).expand(1, 3, num_frames, height, width)


def sparse_video(
    frames: Mapping[int, torch.Tensor], num_frames: int, *, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """A mid-grey video [1, 3, num_frames, height, width] with the given pictures ([3, height, width] by frame index) in their places."""
    if not frames:
        return empty_video(num_frames, height=height, width=width, device=device, dtype=dtype)
    video = torch.zeros(1, 3, num_frames, height, width, device=device, dtype=dtype)
    for index, pixels in frames.items():
        video[0, :, index] = pixels.to(device=device, dtype=dtype)
    return video
