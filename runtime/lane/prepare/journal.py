"""What an unfinished folder has on disk already, so that the same command goes on from there; and the lock that lets one run at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.lane.prepare.failures import Cause, PrepareError


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenGroup:
    """A group of tensors that is on disk. `end` is an offset in the file; `sums` are CRC-32, one for each tensor."""

    end: int
    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a model's folder is made: `folder` becomes the prepared folder, what lies beside it is only for going on later."""

    root: Path

    @property
    def folder(self) -> Path:
        """The prepared folder to be."""
        return self.root / "folder"

    @property
    def journal(self) -> Path:
        """One JSON object a line; the first says what is being made."""
        return self.root / "journal.jsonl"

    def tidy(self) -> None:
        """Removes what a run left that was stopped after its folder was in place; what another one goes on with stays."""
        if not self.folder.exists():
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def hashes(self) -> Path:
        """SHA-256 of sources, by what tells whether they changed."""
        return self.root / "hashes.json"


class Journal:
    """The lines that are on disk. A line is added only after what it tells of is on disk, so it is never wrong, at worst behind."""

    def __init__(self, workshop: Workshop, made_of: dict[str, Any]) -> None:
        """Goes on with what is there when it was made of the same; otherwise begins with an empty folder.

        Args:
            workshop: is made when missing.
            made_of: sources by hash, storage, plan and version; plain JSON.
        """
        workshop.root.mkdir(parents=True, exist_ok=True)
        lines = _read_lines(workshop.journal)
        self._groups: dict[str, list[WrittenGroup]] = {}
        self._verified: dict[str, str] = {}
        self.was_of_something_else = bool(lines) and lines[0] != made_of
        if not lines or self.was_of_something_else:
            workshop.journal.unlink(missing_ok=True)
            shutil.rmtree(workshop.folder, ignore_errors=True)
            lines = []
        workshop.folder.mkdir(exist_ok=True)
        for line in lines[1:]:
            self._take(line)
        # What a kill left of the last line goes.
        self._file = workshop.journal.open("w", encoding="utf-8")
        try:
            self._file.writelines(json.dumps(line) + "\n" for line in lines or [made_of])
            self._sync()
            sync_folder(workshop.root)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Nothing is lost by not calling it."""
        # On a full disk there is a line that could not be written; it is not missed.
        with suppress(OSError):
            self._file.close()

    def groups(self, path: str) -> list[WrittenGroup]:
        """Those of a file that are on disk, in order."""
        return list(self._groups.get(path, ()))

    def verified(self, path: str) -> str | None:
        """SHA-256 of a file that was read again and compared."""
        return self._verified.get(path)

    def add_groups(self, path: str, groups: list[WrittenGroup]) -> None:
        """Tells that they are on disk."""
        self._add([{"path": path, "end": group.end, "sums": list(group.sums)} for group in groups])

    def add_verified(self, path: str, sha256: str) -> None:
        """Tells that the file was read again."""
        self._add([{"path": path, "sha256": sha256}])

    def forget(self, path: str) -> None:
        """The file must be written again."""
        self._add([{"path": path, "forgotten": True}])

    def _add(self, lines: list[dict[str, Any]]) -> None:
        self._file.writelines(json.dumps(line) + "\n" for line in lines)
        self._sync()
        for line in lines:
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        path = line["path"]
        if "sha256" in line:
            self._verified[path] = line["sha256"]
        elif "end" in line:
            self._groups.setdefault(path, []).append(WrittenGroup(end=line["end"], sums=tuple(line["sums"])))
        else:
            self._groups.pop(path, None)
            self._verified.pop(path, None)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def held(models_dir: Path, model: str) -> Iterator[None]:
    """Holds the right to prepare a model in a folder; the kernel lets go of it when the holder ends in any way.

    Raises:
        PrepareError: another process holds it, or the folder cannot be written.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        lock = (models_dir / f".{model}.lock").open("a+", encoding="ascii")
    except OSError as error:
        raise PrepareError(
            Cause.DISK, f"{models_dir} cannot be written: {error.strerror}. Name another folder with --models-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            msg = f"another `warmlane prepare {model}` (process {holder}) works on {models_dir}. Wait for it, or end it and run this again"
            raise PrepareError(Cause.BUSY, msg) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def sync_tree(folder: Path) -> None:
    """Brings everything below a folder to disk, and then its names."""
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):
        sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to disk; of a file, its content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line; none when there is no journal."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
