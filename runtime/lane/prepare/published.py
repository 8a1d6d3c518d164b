"""Reads what published safetensors files hold, from their headers alone, and refuses every file that contradicts itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.lane.prepare.failures import Cause, PrepareError, listed

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 * 1024 * 1024
"""As in the reference implementation of the format."""

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
"""Types of the format, by their names in it. Those below a byte are left out: no publisher of these models uses them."""

_METADATA = "__metadata__"
_INDEX_ENDING = ".safetensors.index.json"

_FOREIGN = (
    (b"PK\x03\x04", "a pickle in a zip, as torch.save writes it (.pth, .pt, .ckpt), which can run code when it is opened: it is not read"),
    (b"\x80\x02", "a pickle, which can run code when it is opened: it is not read"),
    (b"GGUF", "a GGUF file, whose weights are quantised in blocks"),
    (b"version https://git-lfs", "the pointer of Git LFS and not the file itself: fetch it with `git lfs pull`"),
    (b"<", "a web page: the download gave an error or asked for a login"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTensor:
    """A tensor in a published file. `dtype` is the format's name; `start` counts from the file's beginning, in bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """In the file."""
        return self.elements * ITEM_BYTES[self.dtype]


def weight_files(place: Path) -> tuple[Path, ...]:
    """The safetensors files at a place: a file, an index, or a folder with one file or one index.

    Raises:
        PrepareError: there are none, more than that, or an index names a file that is not there.
    """
    if place.name.endswith(_INDEX_ENDING):
        return tuple(place.parent / name for name in sorted(set(_weight_map(place).values())))
    if place.is_file():
        return (place,)
    if not place.is_dir():
        raise PrepareError(Cause.MISSING_SOURCE, f"{place} is not there")
    indexes, files = sorted(place.glob(f"*{_INDEX_ENDING}")), sorted(place.glob("*.safetensors"))
    if len(indexes) == 1:
        return weight_files(indexes[0])
    if not indexes and len(files) == 1:
        return (files[0],)
    msg = (
        f"{place} is a folder and must hold one .safetensors file, or several with one index; "
        f"it holds {len(files)} and {len(indexes)} indexes. Name the file itself"
    )
    raise PrepareError(Cause.MISSING_SOURCE, msg, [path.name for path in (*files, *indexes)])


def read_published(place: Path) -> dict[str, PublishedTensor]:
    """The tensors at a place, see `weight_files`, by name.

    Raises:
        PrepareError: as for `weight_files`; a file is no safetensors file, is cut off or contradicts itself; an index does not agree with
            its files.
    """
    index = _index_of(place)
    if index is None:
        return _read_file(weight_files(place)[0])
    places = _weight_map(index)
    found: dict[str, PublishedTensor] = {}
    for file in weight_files(index):
        found |= _read_file(file)
    wrong = sorted(name for name in found.keys() | places.keys() if name not in found or found[name].file.name != places.get(name))
    if wrong:
        raise PrepareError(Cause.DAMAGED_SOURCE, f"{index} does not agree with its files about {listed(wrong)}", wrong)
    return found


def _index_of(place: Path) -> Path | None:
    if place.name.endswith(_INDEX_ENDING):
        return place
    indexes = sorted(place.glob(f"*{_INDEX_ENDING}")) if place.is_dir() else []
    return indexes[0] if len(indexes) == 1 else None


def _weight_map(index: Path) -> dict[str, str]:
    """Which file holds which tensor. Every file is there, in the index's folder."""
    try:
        places = {str(name): str(file) for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    except FileNotFoundError as error:
        raise PrepareError(Cause.MISSING_SOURCE, f"{index} is not there") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{index} cannot be read as an index of safetensors files: {type(error).__name__}: {error}"
        raise PrepareError(Cause.DAMAGED_SOURCE, msg) from error
    names = sorted(set(places.values()))
    if outside := [name for name in names if Path(name).name != name]:
        raise PrepareError(Cause.DAMAGED_SOURCE, f"{index} names files outside its folder: {listed(outside)}", outside)
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise PrepareError(Cause.MISSING_SOURCE, f"{index} names files that are not there: {listed(missing)}", missing)
    return places


def _read_file(file: Path) -> dict[str, PublishedTensor]:
    try:
        size = file.stat().st_size
        with file.open("rb") as content:
            beginning = content.read(_LENGTH_BYTES)
            _check_kind(file, size, beginning + content.read(16))
            content.seek(_LENGTH_BYTES)
            length = int.from_bytes(beginning, "little")
            if length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
                msg = f"{file} is no safetensors file, or it is cut off: its header would have {length} bytes, the file has {size}"
                raise PrepareError(Cause.DAMAGED_SOURCE, msg)
            text = content.read(length)
    except FileNotFoundError as error:
        raise PrepareError(Cause.MISSING_SOURCE, f"{file} is not there") from error
    except OSError as error:
        raise PrepareError(Cause.MISSING_SOURCE, f"{file} cannot be read: {error.strerror}") from error
    try:
        header = json.loads(text, object_pairs_hook=_without_doubles)
        start = _LENGTH_BYTES + length
        tensors = {name: _tensor(file, entry, start) for name, entry in header.items() if name != _METADATA}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{file} is damaged: its header cannot be read ({type(error).__name__}: {error})"
        raise PrepareError(Cause.DAMAGED_SOURCE, msg) from error
    _check_places(file, tensors, start, size)
    return tensors


def _check_kind(file: Path, size: int, beginning: bytes) -> None:
    if size == 0:
        raise PrepareError(Cause.DAMAGED_SOURCE, f"{file} is empty: 0 bytes")
    for mark, kind in _FOREIGN:
        if beginning.startswith(mark):
            raise PrepareError(Cause.DAMAGED_SOURCE, f"{file} is {kind}. A .safetensors file is needed")
    if size < _LENGTH_BYTES:
        raise PrepareError(Cause.DAMAGED_SOURCE, f"{file} is cut off: it has {size} bytes, less than any safetensors file")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        msg = f"named twice: {listed(sorted({name for name in names if names.count(name) > 1}))}"
        raise ValueError(msg)
    return made


def _tensor(file: Path, entry: Any, start: int) -> PublishedTensor:
    dtype = entry["dtype"]
    if dtype not in ITEM_BYTES:
        msg = f"type {dtype!r} is unknown"
        raise ValueError(msg)
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        msg = f"offsets {begin!r}, {end!r} and shape {list(shape)!r} must be counts"
        raise ValueError(msg)
    tensor = PublishedTensor(file=file, dtype=dtype, shape=shape, start=start + begin)
    if end - begin != tensor.size_bytes:
        msg = f"bytes {begin} to {end} for a tensor {list(shape)} of {dtype}"
        raise ValueError(msg)
    return tensor


def _check_places(file: Path, tensors: Mapping[str, PublishedTensor], start: int, size: int) -> None:
    """The tensors lie one behind the other and fill the file, as the format demands."""
    ordered = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size_bytes))
    end, last = start, ""
    for name, tensor in ordered:
        if tensor.start != end:
            what = f"{name} overlaps {last}" if tensor.start < end else f"nothing lies in the {tensor.start - end} bytes before {name}"
            raise PrepareError(Cause.DAMAGED_SOURCE, f"{file} is damaged: {what}", [name])
        end, last = tensor.start + tensor.size_bytes, name
    if end > size:
        cut = _beyond(ordered, size)
        msg = f"{file} is cut off: {end - size} of {end} bytes are missing, so {listed(cut)} cannot be read. Get it again"
        raise PrepareError(Cause.DAMAGED_SOURCE, msg, cut)
    if end < size:
        raise PrepareError(Cause.DAMAGED_SOURCE, f"{file} is damaged: {size - end} bytes follow its last tensor")


def _beyond(ordered: Iterable[tuple[str, PublishedTensor]], size: int) -> list[str]:
    return [name for name, tensor in ordered if tensor.start + tensor.size_bytes > size]
