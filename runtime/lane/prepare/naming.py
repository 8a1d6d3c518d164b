"""How publishers name tensors: prefixes, native Wan names, scales of fp8 matrices. Names only; renaming is diffusers' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers

from runtime.lane.prepare.published import PublishedTensor

SCALED_MARK = "scaled_fp8"
"""ComfyUI's mark, at the root of a network, that its fp8 matrices are scaled: an empty tensor."""

_WEIGHT = ".weight"
_SCALES = (".scale_weight", ".weight_scale")
"""What a matrix must be multiplied by, in ComfyUI's older and newer name."""

_INPUT_SCALES = (".scale_input", ".input_scale")
"""What inputs would be divided by before a multiplication in fp8. Nothing here computes in fp8, so these are left out knowingly."""

_NATIVE_MARK = ".self_attn."
"""In Wan's own names of a transformer's tensors; diffusers calls it `attn1`."""

_FOREIGN_MARKS = ("motion_encoder", "face_adapter")
"""Of other Wan models. diffusers' renaming reshapes their tensors, which names cannot stand for; they are unexpected here anyway."""


class Naming(StrEnum):
    """Whose names a published network has."""

    AS_IS = "as_is"
    """Those that the network has here: diffusers' or transformers'."""
    TRANSFORMER = "transformer"
    """Wan's own of a transformer, or diffusers'."""
    NATIVE_VAE = "native_vae"
    """Wan's own of its VAE."""


@dataclass(slots=True, kw_only=True)
class NamedTensors:
    """A published network by the names that it has here.

    Attributes:
        tensors: of the network; with each, its name in the file.
        scales: what a matrix must be multiplied by, by the matrix's name here.
        dropped: names in the file of scales of inputs.
        is_scaled: the mark is there.
        stray: names in the file of scales without a matrix.
        doubled: names here that two tensors of the file would have.
    """

    tensors: dict[str, tuple[str, PublishedTensor]] = field(default_factory=dict)
    scales: dict[str, tuple[str, PublishedTensor]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    is_scaled: bool = False
    stray: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def rename(published: Mapping[str, PublishedTensor], prefix: str, naming: Naming) -> NamedTensors:
    """The tensors behind a prefix by the names that the network has here.

    Args:
        published: all tensors of the source.
        prefix: of this network's tensors; may be empty.
        naming: whose names they have behind it.
    """
    bare = {name.removeprefix(prefix): tensor for name, tensor in published.items() if name.startswith(prefix)}
    convert = _converter(naming, bare)
    named = NamedTensors(is_scaled=bare.pop(SCALED_MARK, None) is not None)
    for name, tensor in bare.items():
        stem, ending = _split(name)
        if ending and f"{stem}{_WEIGHT}" not in bare:
            named.stray.append(prefix + name)
        elif ending in _INPUT_SCALES:
            named.dropped.append(prefix + name)
        else:
            target = named.scales if ending else named.tensors
            new = convert(f"{stem}{_WEIGHT}" if ending else name)
            if new in target:
                named.doubled.append(new)
            target[new] = (prefix + name, tensor)
    return named


def _split(name: str) -> tuple[str, str]:
    """The name of the layer and the ending, for a scale; otherwise the whole name and nothing."""
    ending = next((ending for ending in (*_SCALES, *_INPUT_SCALES) if name.endswith(ending)), "")
    return name.removesuffix(ending), ending


def _converter(naming: Naming, bare: Mapping[str, PublishedTensor]) -> Callable[[str], str]:
    match naming:
        case Naming.TRANSFORMER if any(_NATIVE_MARK in name for name in bare):
            return lambda name: (
                name if any(mark in name for mark in _FOREIGN_MARKS) else _new_name(convert_wan_transformer_to_diffusers, name)
            )
        case Naming.NATIVE_VAE:
            return lambda name: _new_name(convert_wan_vae_to_diffusers, name)
        case _:
            return lambda name: name


def _new_name(convert: Callable[[dict[str, Any]], dict[str, Any]], name: str) -> str:
    """What diffusers' converter, which moves weights from key to key, makes of one key."""
    (new,) = convert({name: name})
    return new
