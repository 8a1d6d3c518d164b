"""The plan of a preparation: for each tensor of each network where it lies, what turns it into its stored type, and where it goes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from runtime.lane.prepare.failures import Cause, PrepareError, listed
from runtime.lane.prepare.naming import NamedTensors, rename
from runtime.lane.prepare.published import PublishedTensor
from runtime.lane.wan.networks import stored_types
from runtime.lane.wan.parts import canonical_names, layout_of, state_of
from runtime.lane.wan.skeleton import computed_buffers

if TYPE_CHECKING:
    from runtime.lane.prepare.checkpoint import Checkpoint, Part, Sizes

PAGE_BYTES = 4096
"""Weights begin at a multiple, so that what is mapped or read directly begins with a page."""

FP8 = "F8_E4M3"
_SCALED_TYPES = frozenset({FP8, "F8_E5M2"})
READ_TYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    FP8: torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""What weights of these models are published in. float64, integers and truth values cannot be right."""

_STORED_NAMES = {torch.float8_e4m3fn: FP8, torch.bfloat16: "BF16"}


class Making(StrEnum):
    """What turns a published tensor into a stored one."""

    COPY = "copy"
    CAST = "cast"
    DEQUANTISE = "dequantise"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlan:
    """One tensor.

    Attributes:
        name: in the network here.
        published: its name in the source.
        source: where it lies.
        stored: its type here.
        scale: what it is multiplied by: one number, or one for each row.
        twin: a tied tensor that the source has too, with its name; it must be equal.
    """

    name: str
    published: str
    source: PublishedTensor
    stored: torch.dtype
    scale: PublishedTensor | None = None
    twin: tuple[str, PublishedTensor] | None = None

    @property
    def making(self) -> Making:
        """By the types and the scale."""
        if self.scale is not None:
            return Making.DEQUANTISE
        return Making.COPY if READ_TYPES[self.source.dtype] == self.stored else Making.CAST

    @property
    def size_bytes(self) -> int:
        """As it is stored."""
        return self.source.elements * self.stored.itemsize


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """One part: a folder with a configuration and one file.

    Attributes:
        module: its network on the meta device.
        groups: the tensors in the order in which they are written: the rest, then block by block in running order.
    """

    part: Part
    module: torch.nn.Module
    groups: tuple[tuple[TensorPlan, ...], ...]

    @property
    def file_name(self) -> str:
        """As the libraries call it."""
        return "model.safetensors" if self.part.network == "text_encoder" else "diffusion_pytorch_model.safetensors"

    @property
    def path(self) -> str:
        """Of the file in the prepared folder."""
        return f"{self.part.folder}/{self.file_name}"

    @property
    def tensors(self) -> tuple[TensorPlan, ...]:
        """In order."""
        return tuple(tensor for group in self.groups for tensor in group)

    @cached_property
    def header(self) -> bytes:
        """What the file begins with: the length, and the places of all tensors, filled up to whole pages."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in self.tensors:
            end = offset + tensor.size_bytes
            shape = list(tensor.source.shape)
            entries[tensor.name] = {"dtype": _STORED_NAMES[tensor.stored], "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        length = -(-(8 + len(text)) // PAGE_BYTES) * PAGE_BYTES - 8
        return length.to_bytes(8, "little") + text.ljust(length)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return len(self.header) + sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All parts. `ignored`: tensors of the sources that are left out knowingly."""

    parts: tuple[PartPlan, ...]
    ignored: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of all weights as they are stored."""
        return sum(part.size_bytes for part in self.parts)

    @cached_property
    def digest(self) -> str:
        """The same for the same work: sources by their places within the files, types, order, configurations."""
        told = [[part.path, [[_told(tensor), str(tensor.stored)] for tensor in part.tensors]] for part in self.parts]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def make_plan(
    checkpoint: Checkpoint,
    parts: tuple[Part, ...],
    published: Mapping[tuple[str, str], Mapping[str, PublishedTensor]],
    *,
    storage: str,
    sizes: Sizes,
) -> Plan:
    """Compares what the sources hold with what the networks have.

    Args:
        checkpoint: the model's.
        parts: those to be prepared.
        published: the tensors by source and subfolder.
        storage: `fp8` or `bf16`.
        sizes: fields of configurations that differ from the published ones.

    Raises:
        PrepareError: anything is missing, unexpected, of another shape or of a type that cannot be right. It names all of it, of all parts.
    """
    found = Problems()
    plans: list[PartPlan] = []
    ignored = {name for tensors in published.values() for name in tensors if name in checkpoint.ignored}
    for part in parts:
        tensors = published[part.source, part.subfolder]
        named = rename({name: tensor for name, tensor in tensors.items() if name not in ignored}, part.prefix, part.naming)
        ignored |= set(named.dropped)
        module = part.build(**sizes.get(part.sizes_key, {}))
        wrong = _wrong(named, module)
        if wrong:
            found.add(f"{part.folder} cannot be made of {part.source}", wrong, checkpoint.recognise(part.source, tensors))
        else:
            plans.append(PartPlan(part=part, module=module, groups=_groups(part.network, module, named, storage)))
    for place, tensors in published.items():
        prefixes = tuple(part.prefix for part in parts if (part.source, part.subfolder) == place)
        outside = sorted(name for name in tensors if name not in ignored and not name.startswith(prefixes))
        if outside:
            found.add(f"{place[0]} has tensors that no part takes", {"unexpected": outside}, checkpoint.recognise(place[0], tensors))
    found.raise_if_any()
    return Plan(parts=tuple(plans), ignored=tuple(sorted(ignored)))


class Problems:
    """What is wrong with the sources, gathered, so that one run names all of it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._texts: list[str] = []
        self._details: list[str] = []

    def add(self, text: str, names: Mapping[str, list[str]], hint: str) -> None:
        """What cannot be done, with the names by kind, and what the source is instead where that is known."""
        kinds = "; ".join(f"{kind}: {listed(some)}" for kind, some in names.items())
        self._texts.append(f"{text}{f': {hint}' if hint else ''} ({kinds})")
        self._details += [f"{text}: {kind}: {name}" for kind, some in names.items() for name in some]

    def raise_if_any(self) -> None:
        """Raises PrepareError when there is anything."""
        if self._texts:
            raise PrepareError(Cause.WRONG_SOURCE, ". ".join(self._texts), self._details)


def _wrong(named: NamedTensors, module: torch.nn.Module) -> dict[str, list[str]]:
    """Names of tensors by what is wrong with them; empty when the network can be made of them."""
    aliases = canonical_names(module)
    wanted = _wanted(module)
    found = {aliases.get(name, name) for name in named.tensors}
    kinds = {
        "missing": sorted(wanted.keys() - found),
        "unexpected": sorted(published for name, (published, _) in named.tensors.items() if aliases.get(name, name) not in wanted),
        "named twice": sorted(named.doubled),
        "scales without a matrix": sorted(named.stray),
    }
    kinds["of another shape"], kinds["of a type that weights cannot have"] = [], []
    for name, (published, tensor) in sorted(named.tensors.items()):
        shape = wanted.get(aliases.get(name, name))
        if shape is not None and shape != tensor.shape:
            kinds["of another shape"].append(f"{published} is {list(tensor.shape)}, not {list(shape)}")
        if tensor.dtype not in READ_TYPES:
            kinds["of a type that weights cannot have"].append(f"{published} is {tensor.dtype}")
    kinds["wrong scales"] = list(_wrong_scales(named))
    return {kind: names for kind, names in kinds.items() if names}


def _wrong_scales(named: NamedTensors) -> Iterator[str]:
    for name, (published, scale) in sorted(named.scales.items()):
        matrix = named.tensors[name][1]
        if matrix.dtype not in _SCALED_TYPES:
            yield f"{published} is for a matrix of {matrix.dtype}"
        elif scale.dtype not in {"F32", "F16", "BF16"}:
            yield f"{published} is {scale.dtype}"
        elif scale.elements != 1 and scale.shape not in {matrix.shape[:1], (*matrix.shape[:1], 1)}:
            yield f"{published} is {list(scale.shape)} for a matrix {list(matrix.shape)}; one number, or one a row, is known"
    if named.is_scaled or named.scales:
        for name, (published, tensor) in sorted(named.tensors.items()):
            if tensor.dtype in _SCALED_TYPES and len(tensor.shape) > 1 and name not in named.scales:
                yield f"{published} is {tensor.dtype} and has none, while the file is one of scaled fp8"


def _groups(network: str, module: torch.nn.Module, named: NamedTensors, storage: str) -> tuple[tuple[TensorPlan, ...], ...]:
    """In the order in which lanes read: as `runtime.lane.wan.parts` groups and orders tensors."""
    aliases, computed = canonical_names(module), computed_buffers(module)
    types = stored_types(network, module, storage)
    twins = {aliases[name]: named.tensors[name] for name in named.tensors if name in aliases}

    def plan(name: str) -> TensorPlan:
        published, source = named.tensors[name] if name in named.tensors else twins[name]
        return TensorPlan(
            name=name,
            published=published,
            source=source,
            stored=types[name],
            scale=named.scales[name][1] if name in named.scales else None,
            twin=twins.get(name) if name in named.tensors else None,
        )

    layout = layout_of(network, module, types)
    return tuple(tuple(plan(stored.name) for stored in group.tensors if stored.name not in computed) for group in layout)


def _wanted(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The tensors that a file must have, with their shapes."""
    computed = computed_buffers(module)
    return {name: tuple(tensor.shape) for name, tensor in state_of(module).items() if name not in computed}


def _told(tensor: TensorPlan) -> list[Any]:
    places = (tensor.source, tensor.scale, None if tensor.twin is None else tensor.twin[1])
    return [tensor.name, *([place.file.name, place.dtype, place.start, place.elements] if place else None for place in places)]
