"""The networks of the published models: their configurations, and the type in which each of their tensors is stored. The one place."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from runtime.lane.wan.parts import blocks_of_part, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UMT5_XXL: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 256_384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10_240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    }
)
"""google/umt5-xxl, the text encoder of every Wan model: 5,680,910,336 parameters (facts/models.md, section 4)."""

EXPERT: Mapping[str, Any] = MappingProxyType({"in_channels": 36, "out_channels": 16, "num_layers": 40})
"""AniSora's experts: Wan 14B, diffusers' defaults, with 16 channels of noise, 4 of mask and 16 of condition."""

TEXT_TO_VIDEO_EXPERT: Mapping[str, Any] = MappingProxyType({**EXPERT, "in_channels": 16})
"""Wan2.2's experts for text to video: the same with the noise alone."""

VACE: Mapping[str, Any] = MappingProxyType(
    {"in_channels": 16, "out_channels": 16, "num_layers": 40, "vace_layers": (0, 5, 10, 15, 20, 25, 30, 35)}
)
"""Phr00t Mega: Wan VACE 14B, diffusers' defaults, with a control layer at every fifth layer."""

_STORED = {"fp8": torch.float8_e4m3fn, "bf16": torch.bfloat16, "float32": torch.float32}


def build_text_encoder(**sizes: Any) -> Any:
    """UMT5-XXL with these fields changed, on the meta device."""
    with torch.device("meta"):
        return UMT5EncoderModel(UMT5Config(**{**UMT5_XXL, **sizes})).eval()


def build_vae(**sizes: Any) -> Any:
    """Wan2.1's VAE, which diffusers' defaults are, with these fields changed, on the meta device."""
    with torch.device("meta"):
        return AutoencoderKLWan(**sizes).eval()


def build_expert(**sizes: Any) -> Any:
    """One expert of AniSora with these fields changed, on the meta device."""
    return _build(WanTransformer3DModel, EXPERT, sizes)


def build_text_to_video_expert(**sizes: Any) -> Any:
    """One text-to-video expert with these fields changed, on the meta device."""
    return _build(WanTransformer3DModel, TEXT_TO_VIDEO_EXPERT, sizes)


def build_vace(**sizes: Any) -> Any:
    """Phr00t Mega's transformer with these fields changed, on the meta device."""
    return _build(WanVACETransformer3DModel, VACE, sizes)


def stored_types(name: str, module: torch.nn.Module, storage: str) -> dict[str, torch.dtype]:
    """The type of each parameter of a part in a format. `fp8`: the matrices of linear layers within blocks; the rest, and a VAE, bf16."""
    rest = torch.float32 if storage == "float32" else torch.bfloat16
    linear: set[int] = set()
    for block in blocks_of_part(name, module):
        linear |= {id(layer.weight) for layer in block.modules() if isinstance(layer, torch.nn.Linear)}
    parameters = {key: tensor for key, tensor in state_of(module).items() if isinstance(tensor, torch.nn.Parameter)}
    return {key: _STORED[storage] if id(tensor) in linear else rest for key, tensor in parameters.items()}


def _build(network: Callable[..., Any], published: Mapping[str, Any], sizes: Mapping[str, Any]) -> Any:
    # JSON, which configurations are written to and sizes come from, has lists; what is published is kept from changes as a tuple.
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in {**published, **sizes}.items()}
    with torch.device("meta"):
        return network(**fields).eval()
