"""The conditioning of both models written out plainly from facts/models.md, frame by frame and cell by cell, in numpy. Only the VAE is the
model's.

Nothing of the lanes is used here: these are what the lanes are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from PIL.Image import Image

    Array = npt.NDArray[np.float32]

Keyframes = Mapping[int, tuple["Image", float]]
"""Picture and strength by frame of the clip."""


def anisora_condition(vae: Any, keyframes: Keyframes, frames: int, size: int) -> torch.Tensor:
    """Section 1, "Conditioning": zeros, each picture at its frame, one encoding; a mask whose first frame is repeated 4 times, then folded.

    The strengths are this project's own: each scales the latent frame that holds its keyframe.
    """
    import torch

    video = np.zeros((1, 3, frames, size, size), dtype=np.float32)
    for index, (picture, _) in keyframes.items():
        video[0, :, index] = pixels(picture, size)
    latents = normalised(vae, video)
    for index, (_, strength) in keyframes.items():
        holding = 0 if index == 0 else (index + 3) // 4
        latents[:, :, holding] *= strength

    cells, latent_frames = size // 8, (frames - 1) // 4 + 1
    keyed = np.zeros((frames, cells, cells), dtype=np.float32)
    for index in keyframes:
        keyed[index] = 1.0
    repeated = [keyed[0]] * 4 + [keyed[index] for index in range(1, frames)]
    mask = np.zeros((1, 4, latent_frames, cells, cells), dtype=np.float32)
    for latent_frame in range(latent_frames):
        for channel in range(4):
            mask[0, channel, latent_frame] = repeated[4 * latent_frame + channel]
    return torch.from_numpy(np.concatenate([mask, latents], axis=1))


def vace_control(vae: Any, keyframes: Keyframes, frames: int, size: int) -> torch.Tensor:
    """Section 3, "VACE": what is known and what is to change, each grey (0) elsewhere and encoded; 64 channels of mask, white (1) to
    change.

    The workflows give a control video that is mid-grey (0.5 of 0 to 1) where nothing is known, so a strength below 1 goes toward that. The
    mask has a channel for each of the 8x8 pixels of a cell. Of a latent frame it takes the frame of the clip whose middle is nearest, which
    for the first latent frame is not the first frame: so do the workflows and diffusers.
    """
    import torch

    known = np.zeros((1, 3, frames, size, size), dtype=np.float32)
    to_change = np.zeros((1, 3, frames, size, size), dtype=np.float32)
    white = np.ones((frames, size, size), dtype=np.float32)
    for index in range(frames):
        control = np.full((3, size, size), 0.5, dtype=np.float32)
        if index in keyframes:
            picture, strength = keyframes[index]
            control = strength * (pixels(picture, size) + 1) / 2 + (1 - strength) * control
            white[index] = 0.0
        known[0, :, index] = (control * 2 - 1) * (1 - white[index])
        to_change[0, :, index] = (control * 2 - 1) * white[index]

    cells, latent_frames = size // 8, (frames - 1) // 4 + 1
    mask = np.zeros((1, 64, latent_frames, cells, cells), dtype=np.float32)
    for latent_frame in range(latent_frames):
        source = white[int((latent_frame + 0.5) * frames / latent_frames)]
        for channel in range(64):
            for row in range(cells):
                for column in range(cells):
                    mask[0, channel, latent_frame, row, column] = source[8 * row + channel // 8, 8 * column + channel % 8]
    return torch.from_numpy(np.concatenate([normalised(vae, known), normalised(vae, to_change), mask], axis=1))


def pixels(picture: Image, size: int) -> Array:
    """The picture resized bicubically, as numbers from -1 to 1: [3, size, size]."""
    values = np.asarray(picture.convert("RGB").resize((size, size), 3), dtype=np.float32)
    return values.transpose(2, 0, 1) / 127.5 - 1


def normalised(vae: Any, video: Array) -> Array:
    """The most likely latents of a video, each channel by the VAE's mean and deviation of it."""
    import torch

    with torch.no_grad():
        latents: Array = vae.encode(torch.from_numpy(video)).latent_dist.mode().numpy().copy()
    for channel in range(16):
        latents[:, channel] = (latents[:, channel] - vae.config.latents_mean[channel]) / vae.config.latents_std[channel]
    return latents
