"""Networks without weights: made on the meta device, pointed at tensors that lie elsewhere, told where and in what they compute."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from transformers import UMT5Config, UMT5EncoderModel

from runtime.lane.wan.parts import canonical_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_diffusers_part(part_class: Any, folder: Path) -> torch.nn.Module:
    """A diffusers network of the folder's configuration, on the meta device, in evaluation mode."""
    # Not accelerate's way of making empty networks: it changes a method of all networks of the process meanwhile (facts, hazard 8).
    with torch.device("meta"):
        module: torch.nn.Module = part_class.from_config(part_class.load_config(folder, local_files_only=True))
    return module.eval().requires_grad_(False)


def make_text_encoder(folder: Path) -> torch.nn.Module:
    """A UMT5 encoder of the folder's configuration, on the meta device, in evaluation mode."""
    config = UMT5Config.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        module: torch.nn.Module = UMT5EncoderModel(config)
    return module.eval().requires_grad_(False)


def computed_buffers(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that no file holds, by name, computed in host memory.

    Raises:
        ValueError: a module has one that this code does not know how to compute.
    """
    computed: dict[str, torch.Tensor] = {}
    for path, owner in module.named_modules():
        names = owner._non_persistent_buffers_set
        if not names:
            continue
        if not isinstance(owner, WanRotaryPosEmbed):
            msg = f"{path} has buffers that no file holds: {', '.join(sorted(names))}"
            raise ValueError(msg)
        with torch.device("cpu"):
            made = WanRotaryPosEmbed(owner.attention_head_dim, owner.patch_size, owner.max_seq_len)
        computed |= {f"{path}.{name}" if path else name: made.get_buffer(name) for name in names}
    return computed


@dataclass(frozen=True, slots=True)
class Site:
    """Where a module keeps a tensor: an entry of its parameters or of its buffers."""

    entries: dict[str, torch.Tensor | None]
    name: str


def sites_of(module: torch.nn.Module) -> dict[str, list[Site]]:
    """Every place of every tensor, by the tensor's canonical name; a tied one has several places."""
    aliases = canonical_names(module)
    sites: dict[str, list[Site]] = {}
    for path, owner in module.named_modules():
        for entries in (owner._parameters, owner._buffers):
            for name, tensor in entries.items():
                if tensor is not None:
                    full = f"{path}.{name}" if path else name
                    sites.setdefault(aliases.get(full, full), []).append(Site(entries, name))
    return sites


def point_at(sites: Mapping[str, list[Site]], tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts tensors into their places."""
    for name, tensor in tensors.items():
        for site in sites[name]:
            site.entries[site.name] = tensor


def as_parameters(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as parameters that want no gradient, which is what libraries expect to find."""
    return {name: torch.nn.Parameter(tensor, requires_grad=False) for name, tensor in tensors.items()}


def set_compute(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Makes a network tell the device and the type that it computes in, wherever and in whatever type its weights are stored.

    Pipelines of diffusers ask its first parameter, which may lie in host memory and in 8 bits.
    """
    own: Any = type(module)
    if not isinstance(module, _Computing):
        module.__class__ = _computing(own)
    vars(module)["compute_device"], vars(module)["compute_dtype"] = device, dtype


class _Computing(torch.nn.Module):
    compute_device: torch.device
    compute_dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        return self.compute_device

    @property
    def dtype(self) -> torch.dtype:
        return self.compute_dtype


@cache
def _computing(network: Any) -> Any:
    return type(network.__name__, (_Computing, network), {"__module__": network.__module__})
