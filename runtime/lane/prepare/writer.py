"""Writes the weights of a plan, group by group, and reads them again: what is on disk is what was made, or the run ends."""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch

from runtime.lane.prepare.failures import Cause, PrepareError
from runtime.lane.prepare.journal import Journal, WrittenGroup
from runtime.lane.prepare.values import SourceReader, stored_slices

if TYPE_CHECKING:
    from runtime.lane.prepare.plan import PartPlan, Plan, TensorPlan

_READ_BYTES = 8 * 1024 * 1024
_SYNC_BYTES = 64 * 1024 * 1024
"""What is written between two waits for the disk, at least. A block of a real transformer is five times that."""

OnBytes = Callable[[str, int], None]
"""Told the item, and how many bytes more of the stage are done."""


def written_bytes(plan: Plan, journal: Journal) -> int:
    """Of the plan's files, what is on disk already."""
    return sum(groups[-1].end for part in plan.parts if (groups := journal.groups(part.path)))


def write_weights(plan: Plan, folder: Path, journal: Journal, on_bytes: OnBytes) -> None:
    """Writes what is not written yet.

    Raises:
        PrepareError: a number cannot be stored, a source changed, or the disk is full or refused. What was written stays for the next run.
    """
    for part in plan.parts:
        with disk_errors(folder):
            _write_part(part, folder, journal, on_bytes)


def verify_weights(plan: Plan, folder: Path, journal: Journal, on_bytes: OnBytes) -> None:
    """Reads every file again and compares each tensor with what was written.

    Raises:
        PrepareError: the disk gave back something else; the file is written anew by the next run.
    """
    for part in plan.parts:
        if journal.verified(part.path) is not None:
            on_bytes(part.path, part.size_bytes)
            continue
        with disk_errors(folder):
            journal.add_verified(part.path, _verify_part(part, folder, journal, on_bytes))


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what the operating system says of a disk into what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            msg = f"the disk of {folder} is full. What was written is kept: make room, and the same command goes on from there"
        else:
            msg = f"{folder} cannot be written: {error.strerror or error}"
        raise PrepareError(Cause.DISK, msg) from error


def _write_part(part: PartPlan, folder: Path, journal: Journal, on_bytes: OnBytes) -> None:
    path = folder / part.path
    path.parent.mkdir(parents=True, exist_ok=True)
    done = journal.groups(part.path)
    if done and (not path.is_file() or path.stat().st_size < done[-1].end):
        # The machine stopped before the disk had the file's name or all of its bytes.
        journal.forget(part.path)
        done = []
    end = done[-1].end if done else len(part.header)
    # Bytes behind the last line of the journal may be anything.
    with SourceReader() as reader, path.open("r+b" if done else "wb") as file:
        if done:
            file.truncate(end)
            file.seek(end)
        else:
            file.write(part.header)
            on_bytes(part.path, len(part.header))
        written: list[WrittenGroup] = []
        synced = end
        for number, group in enumerate(part.groups[len(done) :], start=len(done) + 1):
            sums = tuple(_write_tensor(tensor, reader, file, lambda count: on_bytes(part.path, count)) for tensor in group)
            end += sum(tensor.size_bytes for tensor in group)
            written.append(WrittenGroup(end=end, sums=sums))
            if end - synced >= _SYNC_BYTES or number == len(part.groups):
                file.flush()
                os.fsync(file.fileno())
                journal.add_groups(part.path, written)
                written, synced = [], end


def _write_tensor(tensor: TensorPlan, reader: SourceReader, file: BinaryIO, on_count: Callable[[int], None]) -> int:
    """Returns the CRC-32 of its bytes."""
    total = 0
    for piece in stored_slices(tensor, reader):
        content = piece.view(torch.uint8).numpy().data
        file.write(content)
        total = zlib.crc32(content, total)
        on_count(len(content))
    return total


def _verify_part(part: PartPlan, folder: Path, journal: Journal, on_bytes: OnBytes) -> str:
    """Returns the SHA-256 of the file."""
    path = folder / part.path
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        # So that the disk is read and not what the kernel still remembers. Everything was synced, so nothing can be lost by it.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        header = file.read(len(part.header))
        digest.update(header)
        is_same = header == part.header
        sums = [one for group in journal.groups(part.path) for one in group.sums]
        for tensor, expected in zip(part.tensors, sums, strict=True):
            total, left = 0, tensor.size_bytes
            while left and (content := file.read(min(left, _READ_BYTES))):
                digest.update(content)
                total = zlib.crc32(content, total)
                left -= len(content)
                on_bytes(part.path, len(content))
            is_same = is_same and total == expected and not left
        if not is_same or file.read(1):
            journal.forget(part.path)
            msg = f"{path} is not what was written to it: this machine's disk or memory loses data. The next run writes it anew"
            raise PrepareError(Cause.DISK, msg)
    on_bytes(part.path, len(part.header))
    return digest.hexdigest()
