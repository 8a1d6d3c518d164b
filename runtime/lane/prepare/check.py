"""Reads a prepared folder entirely and names everything in which it differs from its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.lane.wan.manifest import FILE_NAME, FileEntry, Manifest, size_difference

_READ_BYTES = 8 * 1024 * 1024


def check_folder(folder: Path, manifest: Manifest, on_bytes: Callable[[str, int], None]) -> list[str]:
    """One sentence for each difference; none when all is as it was made.

    Args:
        folder: the prepared folder.
        manifest: its.
        on_bytes: told the file and how many bytes more were read.
    """
    return [*_unknown(folder, manifest), *(text for entry in manifest.files if (text := _difference(folder, entry, on_bytes)))]


def file_hash(path: Path, on_bytes: Callable[[int], None] = lambda _count: None) -> str:
    """SHA-256 of a file; raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while content := file.read(_READ_BYTES):
            digest.update(content)
            on_bytes(len(content))
    return digest.hexdigest()


def _unknown(folder: Path, manifest: Manifest) -> Iterator[str]:
    known = {entry.path for entry in manifest.files} | {FILE_NAME}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and (name := path.relative_to(folder).as_posix()) not in known:
            yield f"{name} is not in the manifest"


def _difference(folder: Path, entry: FileEntry, on_bytes: Callable[[str, int], None]) -> str:
    if text := size_difference(folder, entry):
        return text
    try:
        found = file_hash(folder / entry.path, lambda count: on_bytes(entry.path, count))
    except OSError as error:
        return f"{entry.path} cannot be read: {error.strerror}"
    return "" if found == entry.sha256 else f"{entry.path} has the SHA-256 {found}, not {entry.sha256}: its content was changed"
