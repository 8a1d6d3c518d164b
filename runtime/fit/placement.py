"""The placements: how a pipeline's weights lie and how its work is cut up, fastest first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Weights(StrEnum):
    """Where the weights are while a part of the pipeline works. Host memory always has a whole copy; the GPU never has the only one."""

    ALL = "all"
    """Every part is on the GPU, also between requests."""
    WORKING = "working"
    """Only the part that works (text encoder, VAE, one transformer) is on the GPU, whole."""
    STREAMED = "streamed"
    """Of the part that works, what lies outside its blocks and two blocks: one at work, one on its way."""


class MemoryPhase(StrEnum):
    """What a render does one after the other; each has its own peak."""

    LOAD = "load"
    TEXT = "text"
    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A rung's recipe.

    Attributes:
        name: stable; it stands in records, metrics and messages.
        is_vae_tiled: the VAE works tile by tile.
        has_lazy_hints: VACE's control hints are computed when their layer needs them, not all at once before the first.
        is_chunked: element-wise work and the feed-forward layers run over slices of the tokens.
    """

    name: str
    weights: Weights
    is_vae_tiled: bool = False
    has_lazy_hints: bool = False
    is_chunked: bool = False


PLACEMENTS: tuple[Placement, ...] = (
    Placement(name="resident_all", weights=Weights.ALL),
    Placement(name="resident", weights=Weights.WORKING),
    Placement(name="resident_tiled", weights=Weights.WORKING, is_vae_tiled=True, has_lazy_hints=True),
    Placement(name="streamed", weights=Weights.STREAMED, is_vae_tiled=True, has_lazy_hints=True),
    Placement(name="streamed_chunked", weights=Weights.STREAMED, is_vae_tiled=True, has_lazy_hints=True, is_chunked=True),
)
"""The ladder, fastest first."""

BY_NAME = {placement.name: placement for placement in PLACEMENTS}
