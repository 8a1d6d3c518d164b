"""What lies where in the safetensors files of a part: headers are read and checked, weights are not."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from runtime.lane.renderer import ModelFilesUnusableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 * 1024 * 1024
"""As in the reference implementation of the format."""

_NAMED_AT_MOST = 12
"""Tensors of each kind in a message."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class WeightsError(ModelFilesUnusableError):
    """The weights of a model cannot be used; the message says which file or which tensors, for operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTensor:
    """A tensor in a file. `start` is counted from the file's beginning, in bytes."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size_bytes(self) -> int:
        """In the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def locate_tensors(folder: Path) -> dict[str, FileTensor]:
    """The tensors of a part's folder, which holds one safetensors file, or several and their index.

    Raises:
        WeightsError: there is none or more than that, or a file is damaged.
    """
    indexes, files = sorted(folder.glob("*.safetensors.index.json")), sorted(folder.glob("*.safetensors"))
    if len(indexes) == 1:
        return _sharded(indexes[0])
    if indexes or len(files) != 1:
        msg = f"{folder} must hold one safetensors file, or several with one index; it holds {len(files)} and {len(indexes)} indexes"
        raise WeightsError(msg)
    return read_header(files[0])


def read_header(file: Path) -> dict[str, FileTensor]:
    """The tensors of one file. Raises WeightsError when it is damaged or has a type that no network computes with."""
    try:
        size = file.stat().st_size
        with file.open("rb") as content:
            length = int.from_bytes(content.read(_LENGTH_BYTES), "little")
            if length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
                msg = f"{file} is damaged: its header would be {length} bytes"
                raise WeightsError(msg)
            header = json.loads(content.read(length))
        start = _LENGTH_BYTES + length
        return {name: _tensor(file, entry, start, size) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{file} cannot be read: {type(error).__name__}: {error}"
        raise WeightsError(msg) from error


def check_tensors(part: str, found: Mapping[str, FileTensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Compares what a part's files hold with what its network has. Raises WeightsError naming everything that differs."""
    both = found.keys() & wanted.keys()
    misshaped = (f"{name} is {list(found[name].shape)}, not {list(wanted[name])}" for name in both if found[name].shape != wanted[name])
    kinds = {"missing": wanted.keys() - both, "unexpected": found.keys() - both, "of another shape": misshaped}
    texts = [f"{kind}: {_listed(names)}" for kind, names in ((kind, sorted(names)) for kind, names in kinds.items()) if names]
    if texts:
        msg = f"the tensors of {part} are not those of its network; {'; '.join(texts)}"
        raise WeightsError(msg)


def _sharded(index: Path) -> dict[str, FileTensor]:
    try:
        places = {str(name): str(file) for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{index} cannot be read: {type(error).__name__}: {error}"
        raise WeightsError(msg) from error
    found: dict[str, FileTensor] = {}
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            msg = f"{index} names a file outside its folder"
            raise WeightsError(msg)
        found |= read_header(index.parent / file)
    wrong = sorted(name for name in found.keys() | places.keys() if name not in found or found[name].file.name != places.get(name))
    if wrong:
        msg = f"{index} does not agree with its files about {_listed(wrong)}"
        raise WeightsError(msg)
    return found


def _tensor(file: Path, entry: Any, start: int, file_size: int) -> FileTensor:
    if entry["dtype"] not in _DTYPES:
        msg = f"type {entry['dtype']}"
        raise ValueError(msg)
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(length) for length in entry["shape"])
    tensor = FileTensor(file=file, dtype=_DTYPES[entry["dtype"]], shape=shape, start=start + begin)
    if begin < 0 or min(shape, default=0) < 0 or end - begin != tensor.size_bytes or start + end > file_size:
        msg = f"bytes {begin} to {end} for a tensor {list(shape)} of {entry['dtype']}; the file may be cut off"
        raise ValueError(msg)
    return tensor


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _NAMED_AT_MOST
    return ", ".join(every[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
