"""A model's weights in host memory: a buffer for each group, filled from the files, or pieces of the files, mapped and never copied."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from runtime.lane.wan.embeddings import EmbeddingCache
from runtime.lane.wan.headers import FileTensor, WeightsError, check_tensors, locate_tensors
from runtime.lane.wan.kept import NetworkShelf
from runtime.lane.wan.parts import GroupLayout, canonical_names, layout_of, state_of
from runtime.lane.wan.skeleton import computed_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from runtime.lane.memory.port import DeviceMemory


_READERS = 4
_PIECE_BYTES = 8 * 1024 * 1024
"""What one thread reads at a time: large enough for a disk, small enough that progress is told and that all threads end together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWeights:
    """One group in host memory.

    Attributes:
        pieces: flat uint8 tensors with their offsets in the group; one where the group has a buffer, maybe many where files are mapped.
    """

    layout: GroupLayout
    pieces: tuple[tuple[int, torch.Tensor], ...]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Each tensor, by name, in host memory or in the mapped file."""
        return {
            stored.name: self._tensor(stored.offset, stored.size_bytes, stored.dtype).view(stored.shape) for stored in self.layout.tensors
        }

    def _tensor(self, offset: int, size: int, dtype: torch.dtype) -> torch.Tensor:
        begin, piece = next((begin, piece) for begin, piece in reversed(self.pieces) if begin <= offset)
        flat = piece[offset - begin : offset - begin + size]
        # Nothing makes a file begin its tensors where their type could begin. Ours do.
        return flat.view(dtype) if flat.data_ptr() % dtype.itemsize == 0 else flat.clone().view(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class WanWeights:
    """All weights of a model, by part. Implements `runtime.lane.renderer.HostWeights`.

    Attributes:
        folder: of the files; configurations are read there.
        is_mapped: the pieces are parts of files.
        computed_bytes: of mapped weights, what is in host memory all the same (position tables).
        embeddings: of texts, that these weights made.
        networks: that point at these weights and wait for a pipeline.
    """

    folder: Path
    parts: Mapping[str, tuple[GroupWeights, ...]]
    is_mapped: bool
    computed_bytes: int = 0
    embeddings: EmbeddingCache = field(default_factory=EmbeddingCache)
    networks: NetworkShelf = field(default_factory=NetworkShelf)

    @property
    def host_bytes(self) -> int:
        """Held in host memory."""
        return self.embeddings.host_bytes + (self.computed_bytes if self.is_mapped else _storage_bytes(self._pieces()))

    @property
    def pinned_bytes(self) -> int:
        """Of the slabs that are pinned."""
        return 0 if self.is_mapped else _storage_bytes(piece for piece in self._pieces() if piece.is_pinned())

    def forget_networks(self) -> None:
        """Drops the networks that wait for a pipeline."""
        self.networks.clear()

    def _pieces(self) -> Iterator[torch.Tensor]:
        return (piece for groups in self.parts.values() for group in groups for _, piece in group.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A part before it is read: its groups, where its tensors lie, and those that are computed."""

    layout: tuple[GroupLayout, ...]
    found: Mapping[str, FileTensor]
    computed: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Bytes that lie in one piece both in a file and in a group."""

    file: Path
    start: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _FilePiece:
    """So many bytes of a file, from `start` on, and where they go."""

    file: Path
    start: int
    target: memoryview


def stored_layouts(folder: Path, modules: Mapping[str, torch.nn.Module]) -> dict[str, tuple[GroupLayout, ...]]:
    """The groups of every part, from the headers of the files alone.

    Args:
        folder: holds a folder for each part.
        modules: the networks by part, on the meta device.

    Raises:
        WeightsError: files are missing or damaged, or their tensors are not those of the networks; it names them.
    """
    return {name: _source(folder, name, module).layout for name, module in modules.items()}


def read_weights(
    folder: Path,
    modules: Mapping[str, torch.nn.Module],
    memory: DeviceMemory,
    on_part: Callable[[str], None],
    on_read: Callable[[int, int], None] = lambda _read, _total: None,
) -> WanWeights:
    """Reads all weights into host memory, in the types in which they are stored.

    A few threads read pieces of the files straight into their places, in the order of the files: one alone does not keep a disk busy while
    the system zeroes the memory that it reads into. What was read stays in the page cache, which gives it up to whoever needs memory: a
    process that is started again, and another lane of the machine, read it from there.

    Args:
        folder: holds a folder for each part.
        modules: the networks by part, on the meta device; they are not changed.
        memory: gives the buffers.
        on_part: told the name of each part before it is read.
        on_read: told bytes read and bytes to read, after every piece.

    Raises:
        WeightsError: as for `stored_layouts`, or a file is shorter than it says. Nothing is left behind.
    """
    sources = {name: _source(folder, name, module) for name, module in modules.items()}
    buffers = iter(memory.host_buffers([group.size_bytes for source in sources.values() for group in source.layout]))
    filled = {name: [(group, next(buffers)) for group in source.layout] for name, source in sources.items()}
    total_bytes = sum(tensor.size_bytes for source in sources.values() for tensor in source.found.values())
    read_bytes = 0
    with ThreadPoolExecutor(_READERS, thread_name_prefix="weights") as readers:
        for name, source in sources.items():
            on_part(name)
            pieces = [piece for group, buffer in filled[name] for piece in _pieces_of(buffer, group, source)]
            for size in readers.map(_read, pieces):
                read_bytes += size
                on_read(read_bytes, total_bytes)
    parts = {name: tuple(GroupWeights(layout=group, pieces=((0, buffer),)) for group, buffer in groups) for name, groups in filled.items()}
    return WanWeights(folder=folder, parts=parts, is_mapped=False)


def map_weights(folder: Path, modules: Mapping[str, torch.nn.Module]) -> WanWeights:
    """Maps all weights from disk without a copy, for a host with less memory than they have. For arguments and errors see
    `stored_layouts`."""
    parts, computed_bytes = {}, 0
    for name, module in modules.items():
        source = _source(folder, name, module)
        computed_bytes += sum(tensor.nbytes for tensor in source.computed.values())
        maps = {file: _mapped(file) for file in sorted({tensor.file for tensor in source.found.values()})}
        parts[name] = tuple(GroupWeights(layout=group, pieces=tuple(_pieces(group, source, maps))) for group in source.layout)
    return WanWeights(folder=folder, parts=parts, is_mapped=True, computed_bytes=computed_bytes)


def _storage_bytes(buffers: Iterable[torch.Tensor]) -> int:
    """Of what the buffers lie in, each counted once."""
    storages = (buffer.untyped_storage() for buffer in buffers)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _source(folder: Path, name: str, module: torch.nn.Module) -> _Source:
    aliases, located = canonical_names(module), locate_tensors(folder / name)
    found = {aliases.get(key, key): located[key] for key in sorted(located, key=lambda key: key not in aliases)}
    computed = computed_buffers(module)
    wanted = {key: tuple(tensor.shape) for key, tensor in state_of(module).items() if key not in computed}
    check_tensors(name, found, wanted)
    dtypes = {key: tensor.dtype for key, tensor in (found | computed).items()}
    return _Source(layout=layout_of(name, module, dtypes), found=found, computed=computed)


def _runs(group: GroupLayout, source: _Source) -> list[_Run]:
    """The group's bytes in files, in as few runs as they lie in."""
    runs: list[_Run] = []
    for stored in group.tensors:
        if stored.name in source.computed:
            continue
        place = source.found[stored.name]
        run = _Run(file=place.file, start=place.start, offset=stored.offset, size=place.size_bytes)
        last = runs[-1] if runs else None
        is_next = last is not None and last.file == run.file and last.start + last.size == run.start
        if last is not None and is_next and last.offset + last.size == run.offset:
            runs[-1] = _Run(file=last.file, start=last.start, offset=last.offset, size=last.size + run.size)
        else:
            runs.append(run)
    return runs


def _pieces_of(buffer: torch.Tensor, group: GroupLayout, source: _Source) -> Iterator[_FilePiece]:
    """What is to be read into a group's buffer; what is computed is put there at once."""
    for stored in group.tensors:
        if stored.name in source.computed:
            stored.view(buffer).copy_(source.computed[stored.name])
    target = buffer.numpy().data
    for run in _runs(group, source):
        for done in range(0, run.size, _PIECE_BYTES):
            size = min(_PIECE_BYTES, run.size - done)
            begin = run.offset + done
            yield _FilePiece(file=run.file, start=run.start + done, target=target[begin : begin + size])


def _read(piece: _FilePiece) -> int:
    """Reads it; returns its size. Raises WeightsError."""
    done, size = 0, len(piece.target)
    try:
        with piece.file.open("rb", buffering=0) as content:
            content.seek(piece.start)
            while done < size:
                count = content.readinto(piece.target[done:])
                if not count:
                    msg = f"{piece.file} ended before its weights did"
                    raise WeightsError(msg)
                done += count
    except OSError as error:
        msg = f"{piece.file} cannot be read: {error}"
        raise WeightsError(msg) from error
    return size


def _mapped(file: Path) -> torch.Tensor:
    return torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)


def _pieces(group: GroupLayout, source: _Source, maps: Mapping[Path, torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    pieces = [(run.offset, maps[run.file][run.start : run.start + run.size]) for run in _runs(group, source)]
    computed = [stored for stored in group.tensors if stored.name in source.computed]
    pieces += [(stored.offset, source.computed[stored.name].flatten().view(torch.uint8)) for stored in computed]
    return iter(sorted(pieces, key=lambda piece: piece[0]))
