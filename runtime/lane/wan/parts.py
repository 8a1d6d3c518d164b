"""The parts of a Wan pipeline as groups of tensors: one group for each block, and one for the rest of a part. Sizes, order and offsets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runtime.fit.ladder import ALL_TRANSFORMERS, TEXT_ENCODER, ModelParts, Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

REST = ""
"""Path of the group that holds what lies outside the blocks."""

_ALIGNMENT = 64
"""Bytes. Every tensor of a group begins at a multiple: more than any kernel asks of a pointer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies in its group's buffer, and how. `name` is that of the part's state."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        """Without the gap to the next one."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """The tensor in a flat uint8 buffer of its group."""
        return buffer[self.offset : self.offset + self.size_bytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True, kw_only=True)
class GroupLayout:
    """The tensors of one group, which travel together. `path` is that of the block in its part; `REST` for the rest."""

    path: str
    tensors: tuple[StoredTensor, ...]

    @cached_property
    def size_bytes(self) -> int:
        """Of the buffer."""
        return max((_aligned(tensor.offset + tensor.size_bytes) for tensor in self.tensors), default=0)


def blocks_of_part(name: str, module: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    """The blocks by which a part can be streamed, in the order in which they run when hints are lazy; none for a VAE, which is never.

    Control blocks run between the others as `lean` says: the first before the first block, each other one after the block it adds to.
    """
    part: Any = module
    if name == TEXT_ENCODER:
        return tuple(part.encoder.block)
    if name not in ALL_TRANSFORMERS:
        return ()
    control_blocks = list(getattr(part, "vace_blocks", ()))
    ordered: list[torch.nn.Module] = control_blocks[:1]
    hinted = 0
    for index, block in enumerate(part.blocks):
        ordered.append(block)
        if control_blocks and index in part.config.vace_layers:
            ordered += control_blocks[hinted : hinted + 1] if hinted else []
            hinted += 1
    return tuple(ordered)


def canonical_names(module: torch.nn.Module) -> Mapping[str, str]:
    """Names of the state that stand for another one's tensor, with that one's name (UMT5's embedding has two names)."""
    return dict(getattr(module, "_tied_weights_keys", None) or {})


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers by name, also buffers that are computed and never saved; of tied ones the canonical name only."""
    aliases = canonical_names(module)
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {name: tensor for name, tensor in named if name not in aliases}


def layout_of(name: str, module: torch.nn.Module, dtypes: Mapping[str, torch.dtype] | None = None) -> tuple[GroupLayout, ...]:
    """The groups of a part: the rest, then the blocks in running order.

    Args:
        name: of the part.
        module: it, on any device, also meta.
        dtypes: how tensors are stored, by name; the module's own where absent.
    """
    blocks = {id(block) for block in blocks_of_part(name, module)}
    paths = {id(block): path for path, block in module.named_modules() if id(block) in blocks}
    ordered = [paths[id(block)] for block in blocks_of_part(name, module)]
    groups: dict[str, list[tuple[str, torch.dtype, torch.Tensor]]] = {path: [] for path in (REST, *ordered)}
    for key, tensor in state_of(module).items():
        dtype = (dtypes or {}).get(key, tensor.dtype)
        groups[next((path for path in _owners(key) if path in groups), REST)].append((key, dtype, tensor))
    return tuple(GroupLayout(path=path, tensors=tuple(_placed(tensors))) for path, tensors in groups.items())


def part_of(name: str, layout: tuple[GroupLayout, ...]) -> Part:
    """The bytes of a part."""
    rest, *blocks = layout
    return Part(name=name, rest_bytes=rest.size_bytes, block_bytes=tuple(block.size_bytes for block in blocks))


def model_parts(model: str, modules: Mapping[str, torch.nn.Module]) -> ModelParts:
    """The bytes of a model's parts, from modules whose tensors have the types that they are stored in; they may be on the meta device."""
    return ModelParts(model=model, parts=tuple(part_of(name, layout_of(name, module)) for name, module in modules.items()))


def _owners(key: str) -> Iterator[str]:
    """The paths of the modules around a tensor, outermost first."""
    steps = key.split(".")
    return (".".join(steps[:depth]) for depth in range(1, len(steps)))


def _placed(tensors: list[tuple[str, torch.dtype, torch.Tensor]]) -> Iterator[StoredTensor]:
    """In the order of safetensors files, so that a block that lies in one piece there is one piece here."""
    offset = 0
    for name, dtype, tensor in sorted(tensors, key=lambda entry: (-entry[1].itemsize, entry[0])):
        stored = StoredTensor(name=name, dtype=dtype, shape=tuple(tensor.shape), offset=offset)
        offset = _aligned(offset + stored.size_bytes)
        yield stored


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
