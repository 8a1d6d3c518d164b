"""AniSora's tiny parts: the shared ones and two experts with random weights, saved in the layout of the real checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import WanTransformer3DModel

from runtime.fit.ladder import TEXT_TO_VIDEO_TRANSFORMERS
from runtime.lane.wan.tiny import TRANSFORMER_SIZE, save_shared, seeded, sharpen

if TYPE_CHECKING:
    from pathlib import Path

_SEED = 3_200
_LATENT_CHANNELS = 16
_CONDITIONED_CHANNELS = 36
"""16 of noise, 4 of mask, 16 of condition, as in the real experts."""


def build(folder: Path) -> None:
    """Saves every part into its subfolder of `folder`; the same weights each time."""
    with seeded(_SEED):
        save_shared(folder)
        for name in ("transformer", "transformer_2"):
            build_expert().save_pretrained(folder / name)


def build_text_to_video_pair(folder: Path) -> None:
    """Saves a text-to-video pair into a folder that has every other part, as `warmlane prepare` does when it is given one."""
    with seeded(_SEED + 1):
        for name in TEXT_TO_VIDEO_TRANSFORMERS:
            build_expert(in_channels=_LATENT_CHANNELS).save_pretrained(folder / name)


def build_expert(in_channels: int = _CONDITIONED_CHANNELS) -> WanTransformer3DModel:
    """One expert of two layers."""
    expert = WanTransformer3DModel(in_channels=in_channels, out_channels=_LATENT_CHANNELS, num_layers=2, **TRANSFORMER_SIZE)
    sharpen(expert)
    return expert.eval()
