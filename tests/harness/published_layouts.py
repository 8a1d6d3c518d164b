"""Writes small networks in the layouts that the models' authors publish. Names are written from the facts, not taken from a converter.

The other way round than the program: it knows what diffusers calls a tensor and gives it the name that Wan's own code has for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]

_LARGEST_FP8 = 448.0


class Format(StrEnum):
    """How matrices are published."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"
    FP8 = "fp8"
    """Matrices of blocks as plain float8_e4m3fn, the rest bf16."""
    FP8_WHOLE = "fp8_whole"
    """Every tensor as plain float8_e4m3fn, norms and biases too."""
    FP8_E5M2 = "fp8_e5m2"
    SCALED = "scaled"
    """ComfyUI's scaled fp8: a mark, one scale a matrix, one for its input."""
    SCALED_ROWS = "scaled_rows"
    """The newer names, one scale a row, no mark."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is in a file, and what it means.

    Attributes:
        tensors: as they are written, by the names of diffusers; scales and marks behind them.
        meaning: in float32, after every scale.
    """

    tensors: dict[str, torch.Tensor]
    meaning: dict[str, torch.Tensor]


def is_block_matrix(name: str, tensor: torch.Tensor) -> bool:
    """A matrix of a linear layer within a block, as fp8 files and fp8 storage have them."""
    return tensor.ndim == 2 and name.endswith(".weight") and "block" in name and "relative_attention_bias" not in name


def publish(tensors: Tensors, style: Format) -> Published:
    """The tensors in a format."""
    import torch

    written: dict[str, torch.Tensor] = {}
    meaning: dict[str, torch.Tensor] = {}
    plain = {Format.FP32: torch.float32, Format.FP16: torch.float16}.get(style, torch.bfloat16)
    for name, tensor in tensors.items():
        is_matrix = is_block_matrix(name, tensor)
        if is_matrix and style in {Format.SCALED, Format.SCALED_ROWS}:
            whole = tensor.abs().amax() if style is Format.SCALED else tensor.abs().amax(dim=1, keepdim=True)
            scale = (whole / _LARGEST_FP8).to(torch.float32).clamp(min=1e-12)
            written[name] = (tensor / scale).clamp(-_LARGEST_FP8, _LARGEST_FP8).to(torch.float8_e4m3fn)
            stem = name.removesuffix(".weight")
            if style is Format.SCALED:
                written |= {f"{stem}.scale_weight": scale.reshape(1), f"{stem}.scale_input": torch.ones(1)}
            else:
                written[f"{stem}.weight_scale"] = scale
            meaning[name] = written[name].to(torch.float32) * scale
            continue
        dtype = plain
        if style is Format.FP8_WHOLE or (is_matrix and style is Format.FP8):
            dtype = torch.float8_e4m3fn
        elif is_matrix and style is Format.FP8_E5M2:
            dtype = torch.float8_e5m2
        written[name] = tensor.to(dtype)
        meaning[name] = written[name].to(torch.float32)
    if style is Format.SCALED:
        written["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    return Published(written, meaning)


def as_stored(meaning: Tensors, storage: str) -> dict[str, torch.Tensor]:
    """What a lane computes with: the numbers of a file, rounded to the type they are stored in, as bfloat16."""
    import torch

    return {
        name: (tensor.to(torch.float8_e4m3fn) if storage == "fp8" and is_block_matrix(name, tensor) else tensor).to(torch.bfloat16)
        for name, tensor in meaning.items()
    }


_TRANSFORMER_NAMES = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"(blocks\.\d+)\.attn1\.", r"\1.self_attn."),
    (r"(blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
    (r"(_attn)\.to_([qkv])\.", r"\1.\2."),
    (r"(_attn)\.to_out\.0\.", r"\1.o."),
    # The norm before cross-attention: diffusers' second, Wan's third.
    (r"(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"(blocks\.\d+)\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
    (r"(blocks\.\d+)\.ffn\.net\.2\.", r"\1.ffn.2."),
    (r"(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"(vace_blocks\.\d+)\.proj_in\.", r"\1.before_proj."),
    (r"(vace_blocks\.\d+)\.proj_out\.", r"\1.after_proj."),
)

_VAE_ENDS = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"^(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"^(encoder|decoder)\.norm_out\.gamma$", r"\1.head.0.gamma"),
    (r"^(encoder|decoder)\.conv_out\.", r"\1.head.2."),
)
_VAE_BLOCKS = (
    (r"\.norm1\.gamma$", ".residual.0.gamma"),
    (r"\.conv1\.(weight|bias)$", r".residual.2.\1"),
    (r"\.norm2\.gamma$", ".residual.3.gamma"),
    (r"\.conv2\.(weight|bias)$", r".residual.6.\1"),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"^encoder\.down_blocks\.", "encoder.downsamples."),
)


def native_transformer(name: str) -> str:
    """A tensor of a Wan or VACE transformer as Wan's own code names it."""
    for pattern, replacement in _TRANSFORMER_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def native_vae(name: str) -> str:
    """A tensor of the VAE as Wan's own code names it: the decoder's blocks are one list, four a level, the fourth of which upsamples."""
    for pattern, replacement in _VAE_ENDS:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    for pattern, replacement in _VAE_BLOCKS:
        name = re.sub(pattern, replacement, name)
    name = re.sub(r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda at: f"decoder.upsamples.{4 * int(at[1]) + int(at[2])}.", name)
    return re.sub(r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda at: f"decoder.upsamples.{4 * int(at[1]) + 3}.", name)


def renamed(tensors: Tensors, rename: Callable[[str], str], prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors by other names; a scale is named after its layer."""
    made: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        stem, dot, ending = name.rpartition(".")
        is_scale = ending in {"scale_weight", "weight_scale", "scale_input"}
        new = f"{rename(f'{stem}.weight').removesuffix('.weight')}{dot}{ending}" if is_scale else rename(name)
        made[prefix + new] = tensor
    return made


def save(tensors: Tensors, file: Path) -> Path:
    """Writes one safetensors file by the library that publishers use; returns it."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    return file


def save_sharded(tensors: Tensors, folder: Path, stem: str, shards: int = 2) -> Path:
    """Writes several files and their index, as the libraries do with large networks; returns the folder."""
    places = {name: f"{stem}-{number % shards + 1:05}-of-{shards:05}.safetensors" for number, name in enumerate(tensors)}
    for file in sorted(set(places.values())):
        save({name: tensors[name] for name, place in places.items() if place == file}, folder / file)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder
