"""The files that a preparation reads: where they are, what they hash to, and whether they may be what they are said to be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.lane.prepare.checkpoint import TOKENIZER_FILES, Checkpoint, Source, SourceKind
from runtime.lane.prepare.failures import Cause, PrepareError, listed
from runtime.lane.prepare.hub import HubFile
from runtime.lane.prepare.published import weight_files

_READ_BYTES = 8 * 1024 * 1024
TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedSource:
    """A source that is on this machine.

    Attributes:
        root: the file or the folder.
        files: from the hub only: what the hub says of each, by path.
        repository, commit: of the hub.
        sha256: what its one weights file must have, by the caller.
    """

    source: Source
    root: Path
    files: Mapping[Path, HubFile]
    repository: str | None = None
    commit: str | None = None
    sha256: str | None = None

    def place(self, subfolder: str) -> Path:
        """Of a subfolder, or of the source itself."""
        return self.root / subfolder if subfolder else self.root


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source. `mark` changes when the file does."""

    located: LocatedSource
    path: Path
    size_bytes: int
    mark: str

    @property
    def name(self) -> str:
        """In the repository; else the whole path."""
        known = self.located.files.get(self.path)
        return str(self.path.resolve()) if known is None else known.name


def source_files(located: LocatedSource) -> tuple[SourceFile, ...]:
    """The files of a source that are read.

    Raises:
        PrepareError: one is missing.
    """
    try:
        return tuple(_source_file(located, path) for path in _paths(located))
    except PrepareError as error:
        raise PrepareError(error.cause, f"--{located.source.name}, {located.source.title}: {error.text}", error.details) from error


def check_names(checkpoint: Checkpoint, variant: str, files: tuple[SourceFile, ...]) -> None:
    """Refuses files whose names say that they are something else: another expert, another variant.

    Raises:
        PrepareError: a name says so.
    """
    for file in files:
        source = file.located.source
        if source.says_not and _said(file.name, {source.says, source.says_not}) == {source.says_not}:
            msg = (
                f"{file.name} is named as {source.says_not} noise and is given as --{source.name}, {source.title}. Both experts have the "
                "same tensors and shapes, so a name is all that tells them apart: were they swapped? If the name is wrong, rename the file"
            )
            raise PrepareError(Cause.WRONG_SOURCE, msg)
        words = _said(file.name, set(checkpoint.says_variant)) if source.kind is SourceKind.WEIGHTS else set()
        said = {checkpoint.says_variant[word] for word in words}
        if said and variant not in said:
            msg = f"{file.name} is named as {min(said)}, and {variant} is prepared: name the other file, or give --variant {min(said)}"
            raise PrepareError(Cause.WRONG_SOURCE, msg)


def hash_files(files: tuple[SourceFile, ...], kept: Path, on_bytes: Callable[[str, int], None]) -> dict[Path, str]:
    """SHA-256 of each file, compared with what the caller and the hub say of it.

    Args:
        files: of all sources.
        kept: where hashes are kept between runs, by what changes when a file does.
        on_bytes: told the file and how many bytes more were read.

    Raises:
        PrepareError: a hash is not as it must be, or two sources that must differ are one file.
    """
    known = _read_kept(kept)
    hashes: dict[Path, str] = {}
    for file in files:
        key = f"{file.path.resolve()}|{file.mark}"
        if key in known:
            on_bytes(file.path.name, file.size_bytes)
        else:
            known[key] = _hash(file.path, on_bytes)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(known), encoding="utf-8")
        hashes[file.path] = known[key]
        _check_hash(file, known[key])
    _check_different(files, hashes)
    return hashes


def check_unchanged(files: tuple[SourceFile, ...]) -> None:
    """Raises PrepareError when a source changed since it was hashed."""
    for file in files:
        if _mark(file.path) != file.mark:
            raise PrepareError(Cause.DAMAGED_SOURCE, f"{file.path} was changed while it was read. Run this again when nobody writes it")


def _paths(located: LocatedSource) -> tuple[Path, ...]:
    source = located.source
    if source.kind is SourceKind.WEIGHTS:
        return weight_files(located.root)
    if not located.root.is_dir():
        msg = f"{located.root} is not a folder; one with {listed(source.subfolders)} is needed"
        raise PrepareError(Cause.MISSING_SOURCE, msg)
    paths: list[Path] = []
    for subfolder in source.subfolders:
        paths += _tokenizer_files(located.root / TOKENIZER) if subfolder == TOKENIZER else weight_files(located.root / subfolder)
    return tuple(paths)


def _source_file(located: LocatedSource, path: Path) -> SourceFile:
    try:
        return SourceFile(located=located, path=path, size_bytes=path.stat().st_size, mark=_mark(path))
    except OSError as error:
        raise PrepareError(Cause.MISSING_SOURCE, f"{path} cannot be read: {error.strerror}") from error


def _mark(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"


def _tokenizer_files(folder: Path) -> list[Path]:
    present = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    missing = [name for name in TOKENIZER_FILES[:2] if folder / name not in present]
    if missing:
        raise PrepareError(Cause.MISSING_SOURCE, f"{folder} holds no fast tokenizer: {listed(missing)} is missing", missing)
    return present


def _said(name: str, words: set[str]) -> set[str]:
    """Which of the words the file's name has, or, where it has none, its folder's: farther up it is about where people keep things."""
    for part in reversed(Path(name).parts[-2:]):
        if found := words & set(re.split(r"[^a-z0-9]+", part.lower())):
            return found
    return set()


def _hash(path: Path, on_bytes: Callable[[str, int], None]) -> str:
    digest = hashlib.sha256()
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                on_bytes(path.name, count)
    except OSError as error:
        raise PrepareError(Cause.DAMAGED_SOURCE, f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _check_hash(file: SourceFile, found: str) -> None:
    located, stated = file.located, file.located.files.get(file.path)
    if located.sha256 is not None and located.source.kind is SourceKind.WEIGHTS and found != located.sha256:
        msg = f"{file.path} has the SHA-256 {found}, and --sha256 says {located.sha256}: it is another file, or it is damaged"
        raise PrepareError(Cause.WRONG_SOURCE, msg)
    if stated is not None and not stated.is_of(file.path, found):
        # A download that is wrong would be found wrong again and again.
        with suppress(OSError):
            file.path.unlink()
        msg = f"{file.name} came damaged: its hash is not what {located.repository} states. It was thrown away: run this again to get it"
        raise PrepareError(Cause.WRONG_SOURCE, msg)


def _check_different(files: tuple[SourceFile, ...], hashes: Mapping[Path, str]) -> None:
    seen: dict[str, SourceFile] = {}
    for file in files:
        source = file.located.source
        if source.kind is not SourceKind.WEIGHTS:
            continue
        first = seen.setdefault(hashes[file.path], file)
        if first.located.source is not source:
            msg = f"--{first.located.source.name} and --{source.name} are the same file: {first.path} and {file.path} have one hash"
            raise PrepareError(Cause.WRONG_SOURCE, msg)


def _read_kept(kept: Path) -> dict[str, str]:
    try:
        document = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in document.items()} if isinstance(document, dict) else {}
