"""Numbers on their way from a published tensor to a stored one, a slice at a time; what cannot be stored stops it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import torch

from runtime.lane.prepare.failures import Cause, PrepareError
from runtime.lane.prepare.plan import READ_TYPES, Making, TensorPlan
from runtime.lane.prepare.published import ITEM_BYTES, PublishedTensor

SLICE_ELEMENTS = 4 * 1024 * 1024
"""Numbers at a time: 16 MiB as float32. What is held at once is a few times that, whatever the tensor's size."""


class SourceReader:
    """Reads pieces of source files without mapping them, so that no page of them counts as memory of this process. A context manager."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._open: dict[Path, int] = {}
        self._closing = ExitStack()

    def __enter__(self) -> SourceReader:
        """Begins."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes every file."""
        self._closing.close()

    def read(self, tensor: PublishedTensor, first: int, count: int) -> torch.Tensor:
        """`count` elements from element `first` on, flat, in the published type.

        Raises:
            PrepareError: the file ends before its header says.
        """
        size = count * ITEM_BYTES[tensor.dtype]
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        start = tensor.start + first * ITEM_BYTES[tensor.dtype]
        while done < size:
            try:
                got = os.preadv(self._file(tensor.file), [view[done:]], start + done)
            except OSError as error:
                raise PrepareError(Cause.DAMAGED_SOURCE, f"{tensor.file} cannot be read: {error.strerror}") from error
            if not got:
                raise PrepareError(Cause.DAMAGED_SOURCE, f"{tensor.file} became shorter while it was read")
            done += got
        return torch.frombuffer(buffer, dtype=READ_TYPES[tensor.dtype]) if size else torch.empty(0, dtype=READ_TYPES[tensor.dtype])

    def _file(self, path: Path) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._closing.callback(os.close, self._open[path])
        return self._open[path]


def stored_slices(plan: TensorPlan, reader: SourceReader) -> Iterator[torch.Tensor]:
    """The tensor as it is stored, in flat pieces, in order.

    Raises:
        PrepareError: a number is not finite or more than the stored type can hold, a scale cannot be right, or its twin differs.
    """
    scale = None if plan.scale is None else _read_scale(plan, plan.scale, reader)
    row = plan.source.elements // max(plan.source.shape[0], 1) if plan.source.shape else 1
    per_row = scale is not None and scale.numel() > 1
    length = max(SLICE_ELEMENTS // row, 1) * row if per_row else SLICE_ELEMENTS
    for first in range(0, plan.source.elements, length):
        count = min(length, plan.source.elements - first)
        piece = reader.read(plan.source, first, count)
        if plan.twin is not None:
            _compare(plan, piece, reader, first)
        if scale is not None and per_row:
            factors = scale[first // row : (first + count) // row].repeat_interleave(row)
            yield _made(plan, piece, factors)
        else:
            yield _made(plan, piece, scale)


def _made(plan: TensorPlan, piece: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    if plan.making is Making.COPY:
        _check_finite(plan, piece.to(torch.float32))
        return piece
    # Every published type is a part of float32, so this changes no number.
    numbers = piece.to(torch.float32)
    _check_finite(plan, numbers)
    if factors is not None:
        numbers *= factors
    largest, beyond = torch.finfo(plan.stored).max, float(numbers.abs().max())
    # float8_e4m3fn has no infinity: what is too large becomes NaN in torch, and the largest number elsewhere. NaN is not beyond anything.
    if not beyond <= largest:
        msg = (
            f"{plan.published} in {plan.source.file} has a number of {beyond:.6g}, and {_type_name(plan.stored)} holds none beyond "
            f"{largest:.6g}. It is not made smaller. The file is damaged, or only `--storage bf16` can hold it"
        )
        raise PrepareError(Cause.BAD_VALUES, msg, [plan.published])
    made: torch.Tensor = numbers.to(plan.stored)
    return made


def _check_finite(plan: TensorPlan, numbers: torch.Tensor) -> None:
    finite = numbers.isfinite()
    if not bool(finite.all()):
        kind = "NaN" if bool(numbers.isnan().any()) else "infinity"
        count = int((~finite).sum())
        msg = f"{plan.published} in {plan.source.file} is damaged: {count} of its numbers are not finite ({kind} among them)"
        raise PrepareError(Cause.BAD_VALUES, msg, [plan.published])


def _read_scale(plan: TensorPlan, scale: PublishedTensor, reader: SourceReader) -> torch.Tensor:
    factors = reader.read(scale, 0, scale.elements).to(torch.float32)
    if not bool(factors.isfinite().all()) or not bool((factors > 0).all()):
        msg = f"the scale of {plan.published} is not a finite number above zero: it is damaged"
        raise PrepareError(Cause.BAD_VALUES, msg, [plan.published])
    return factors


def _compare(plan: TensorPlan, piece: torch.Tensor, reader: SourceReader, first: int) -> None:
    if plan.twin is None:
        return
    name, twin = plan.twin
    other = reader.read(twin, first, piece.numel())
    if not torch.equal(piece.to(torch.float32), other.to(torch.float32)):
        msg = f"{plan.published} and {name} are one tensor in the network, and they differ in {plan.source.file}"
        raise PrepareError(Cause.BAD_VALUES, msg, [plan.published, name])


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
