"""The manifest of a prepared folder: what it was made of and what is in it. Read without torch, so that every lane can at its start."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.lane.renderer import ModelFilesUnusableError

FILE_NAME = "manifest.json"

FORMAT: Literal[1] = 1
"""Of the folder: parts, names, types. A lane opens no other; a change that an older lane would misread gets the next number."""

PUBLISHED_SIZES = "published"
"""Name of the sizes that the authors publish."""

_SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestError(ModelFilesUnusableError):
    """A folder cannot be opened by its manifest; the message says why and what to do, for operators."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SourceEntry(_Entry):
    """A file that weights or the tokenizer came from.

    Attributes:
        source: the model's name for it: `high`, `base`, `checkpoint`, …
        repository: of the hub; None for a file that was on this machine.
        commit: what the revision stood for.
        file: within the repository; otherwise the whole path.
        licence: as its authors state it.
    """

    source: str
    repository: str | None
    commit: str | None
    file: str
    size_bytes: int
    sha256: _SHA256
    licence: str


class FileEntry(_Entry):
    """A file of the folder. `path` is relative, with slashes."""

    path: Annotated[str, Field(pattern=r"^[^/.][^/]*(/[^/.][^/]*)*$")]
    size_bytes: int
    sha256: _SHA256


class Manifest(_Entry):
    """All of it.

    Attributes:
        variant: which of the model's published files; what lanes take from it depends on the model.
        storage: `fp8` or `bf16`.
        sizes: `published`, or the name that another size was given.
        parts: folders with weights.
        tool: name and version of the program that made it.
    """

    format: Literal[1]
    model: str
    variant: str
    storage: Literal["fp8", "bf16"]
    sizes: str
    parts: tuple[str, ...]
    sources: tuple[SourceEntry, ...]
    files: tuple[FileEntry, ...]
    tool: str

    def text(self) -> str:
        """As it is written."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a folder.

    Raises:
        ManifestError: there is none, it is damaged, or it is of a format that this program does not know.
    """
    place = folder / FILE_NAME
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        msg = f"{folder} was not made by `warmlane prepare`, or not to its end: it has no {FILE_NAME}"
        raise ManifestError(msg) from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{place} cannot be read: {error}"
        raise ManifestError(msg) from error
    _check_format(place, text)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        places = ", ".join(".".join(map(str, one["loc"])) or "the whole" for one in found[:3])
        msg = f"{place} is damaged ({places}). Prepare the model again with `--replace`"
        raise ManifestError(msg) from error


def open_folder(folder: Path, model: str) -> Manifest:
    """The manifest of a folder that a lane may open. Looks at names and sizes; `warmlane prepare --check` reads everything.

    Raises:
        ManifestError: the folder is not whole, of another model, or of an unknown format.
    """
    manifest = read_manifest(folder)
    if manifest.model != model:
        msg = f"{folder} has the weights of {manifest.model}, not of {model}"
        raise ManifestError(msg)
    wrong = [text for entry in manifest.files if (text := size_difference(folder, entry))]
    if wrong:
        msg = (
            f"{folder} is not whole: {'; '.join(wrong[:3])}. `warmlane prepare {model} --check` names everything, `--replace` makes it anew"
        )
        raise ManifestError(msg)
    return manifest


def variant_of(folder: Path) -> str:
    """The variant of the checkpoint in a model's folder, such as `mega-v12`; empty for tiny parts, which have no manifest.

    Raises:
        ManifestError: there is a manifest and it cannot be read.
    """
    return read_manifest(folder).variant if (folder / FILE_NAME).exists() else ""


def size_difference(folder: Path, entry: FileEntry) -> str:
    """How a file differs from its entry, by its size alone; empty when it does not."""
    try:
        status = (folder / entry.path).stat()
    except FileNotFoundError:
        return f"{entry.path} is missing"
    except OSError as error:
        return f"{entry.path} cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return f"{entry.path} is no file"
    if status.st_size != entry.size_bytes:
        return f"{entry.path} has {status.st_size} bytes, not {entry.size_bytes}"
    return ""


def _check_format(place: Path, text: str) -> None:
    """An unknown format is named as such before anything else of it is looked at."""
    try:
        document = json.loads(text)
    except ValueError as error:
        msg = f"{place} is damaged: it is no JSON. Prepare the model again with `--replace`"
        raise ManifestError(msg) from error
    found = document.get("format") if isinstance(document, dict) else None
    if isinstance(found, int) and found != FORMAT:
        which = "a newer" if found > FORMAT else "an older"
        msg = f"{place} is of format {found}, which {which} version of this program made; this one knows {FORMAT}"
        raise ManifestError(msg)
