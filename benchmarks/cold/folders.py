"""Model folders of the layout that lanes open, of any width, with cheap random weights or with none (sparse files)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from runtime.fit.ladder import TEXT_ENCODER, TRANSFORMERS, VAE
from runtime.lane.wan.networks import EXPERT, UMT5_XXL, VACE, stored_types
from runtime.lane.wan.parts import layout_of
from runtime.lane.wan.skeleton import computed_buffers
from runtime.lane.wan.tiny import build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "model.safetensors"
_HEADS = 40
"""Of the published transformers; the width of every network goes by it."""
_FFN_PER_HEAD = 384
_TYPES = {torch.float8_e4m3fn: "F8_E4M3", torch.bfloat16: "BF16", torch.float32: "F32"}
_BLOCK_BYTES = 32 * 1024 * 1024
# Without the highest bit of the exponent: as float8_e4m3fn, bfloat16 and float32, every such number is finite.
_FINITE = 0xBF


def write_folder(folder: Path, model: str, *, heads: int = _HEADS, is_sparse: bool = False) -> int:
    """Writes a model's parts, tokenizer included; returns the bytes of all weights.

    Args:
        folder: to be made.
        model: `anisora` or `phr00t`.
        heads: attention heads of the transformers; with 40 all networks have their published sizes.
        is_sparse: the files have their headers and their sizes, and take no room on disk.
    """
    folder.mkdir(parents=True)
    build_tokenizer().save_pretrained(folder / "tokenizer")
    modules = _modules(model, heads)
    for name, module in modules.items():
        (folder / name).mkdir()
        module.config.save_pretrained(folder / name) if name == TEXT_ENCODER else module.save_config(folder / name)
    return sum(_write_weights(folder / name / _FILE, name, module, is_sparse=is_sparse) for name, module in modules.items())


def _modules(model: str, heads: int) -> dict[str, Any]:
    text = dict(UMT5_XXL)
    if heads != _HEADS:
        # In proportion; a vocabulary of full size would be most of a small model.
        width = 64 * max(1, round(64 * heads / _HEADS))
        text |= {"vocab_size": 32_000, "d_model": width, "num_heads": width // 64, "d_ff": width * 5 // 2}
    wan = {"num_attention_heads": heads, "ffn_dim": _FFN_PER_HEAD * heads if heads != _HEADS else 13_824, "text_dim": text["d_model"]}
    with torch.device("meta"):
        modules: dict[str, Any] = {TEXT_ENCODER: UMT5EncoderModel(UMT5Config(**text)), VAE: AutoencoderKLWan()}
        if model == "anisora":
            modules |= {name: WanTransformer3DModel(**EXPERT, **wan) for name in TRANSFORMERS}
        else:
            modules[TRANSFORMERS[0]] = WanVACETransformer3DModel(**VACE, **wan)
    return modules


def _write_weights(file: Path, name: str, module: Any, *, is_sparse: bool) -> int:
    """One part, group by group, in the order in which lanes read."""
    computed = computed_buffers(module)
    header: dict[str, Any] = {}
    size = 0
    for group in layout_of(name, module, stored_types(name, module, "fp8")):
        for stored in group.tensors:
            if stored.name not in computed:
                header[stored.name] = {
                    "dtype": _TYPES[stored.dtype],
                    "shape": list(stored.shape),
                    "data_offsets": [size, size + stored.size_bytes],
                }
                size += stored.size_bytes
    text = json.dumps(header).encode()
    generator = np.random.default_rng(1)
    with file.open("wb") as content:
        content.write(len(text).to_bytes(8, "little") + text)
        if is_sparse:
            content.truncate(content.tell() + size)
            return size
        for done in range(0, size, _BLOCK_BYTES):
            block = generator.integers(0, 256, min(_BLOCK_BYTES, size - done), dtype=np.uint8)
            content.write((block & _FINITE).data)
    return size
