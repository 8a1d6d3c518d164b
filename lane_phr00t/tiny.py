"""Phr00t's tiny parts: the shared ones and a VACE transformer with random weights, saved in the layout of the real checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import WanVACETransformer3DModel

from runtime.lane.wan.tiny import TRANSFORMER_SIZE, save_shared, seeded, sharpen

if TYPE_CHECKING:
    from pathlib import Path

_SEED = 1_200


def build(folder: Path) -> None:
    """Saves every part into its subfolder of `folder`; the same weights each time."""
    with seeded(_SEED):
        save_shared(folder)
        build_transformer().save_pretrained(folder / "transformer")


def build_transformer() -> WanVACETransformer3DModel:
    """A VACE transformer of three layers, two of them with a control branch; 96 control channels, as in the real one."""
    transformer = WanVACETransformer3DModel(
        in_channels=16, out_channels=16, num_layers=3, vace_layers=[0, 2], vace_in_channels=96, **TRANSFORMER_SIZE
    )
    sharpen(transformer)
    return transformer.eval()
