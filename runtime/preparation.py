"""What `warmlane prepare` and the lanes' `prepare` modules tell each other: one order as JSON, then one event as JSON a line.

The command has no torch and the module has no terminal, so they are two processes. Both use these types; nothing else passes between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SHA256_PATTERN = r"^[0-9a-f]{64}$"


class Storage(StrEnum):
    """How the matrices within blocks are stored; the rest is bf16 in both."""

    FP8 = "fp8"
    BF16 = "bf16"


class PrepareExit(IntEnum):
    """Exit codes of the module."""

    OK = 0
    FAILED = 1
    """A source, the hub or the disk; with `check`, the folder differs from its manifest."""
    ASKED = 2
    """The order itself is wrong. The same again gives the same."""
    INTERRUPTED = 130


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceOrder(_Message):
    """Where one source is to be taken from; what is left out is where its authors publish it.

    Attributes:
        path: a file or a folder on this machine; excludes the three after it.
        repository: of the hub, as `owner/name`.
        revision: branch, tag or commit.
        file: file or folder within the repository.
        sha256: what its one weights file must have.
    """

    path: Path | None = None
    repository: str | None = None
    revision: str | None = None
    file: str | None = None
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN)] | None = None


class Order(_Message):
    """What is to be done.

    Attributes:
        action: `prepare` makes the folder of the model; `check` reads it again and compares.
        models_dir: holds a folder for each model.
        variant: of the model's published files; empty: its default.
        sizes: file with other sizes of the networks than the published ones.
        sources: by the model's names for them.
        with_t2v: the text-to-video pair too, from where it is published unless `sources` says otherwise.
        downloads_dir: keeps what comes from the hub until the folder is whole; None: `.downloads` in `models_dir`.
        keep_downloads: and after that.
        replace: makes the folder anew when there is one.
    """

    action: Literal["prepare", "check"] = "prepare"
    model: str
    models_dir: Path
    storage: Storage = Storage.FP8
    variant: str = ""
    sizes: Path | None = None
    sources: Mapping[str, SourceOrder] = {}
    with_t2v: bool = False
    downloads_dir: Path | None = None
    keep_downloads: bool = False
    replace: bool = False


class Stage(StrEnum):
    """What takes long, in the order in which it happens."""

    DOWNLOAD = "download"
    HASH = "hash"
    WRITE = "write"
    VERIFY = "verify"


class SourceDocument(_Message):
    """A file that was or will be read. `origin` is its repository and commit, or its folder."""

    source: str
    origin: str
    file: str
    size_bytes: int
    licence: str


class PartDocument(_Message):
    """A part that will be written. `tensors` are those of its network; `copied` of them are taken byte by byte."""

    folder: str
    tensors: int
    copied: int
    size_bytes: int


class Planned(_Message):
    """The headers were read and everything is there. Nothing has been written.

    Attributes:
        ignored: tensors of the sources that no network has and that are known by name.
    """

    event: Literal["planned"] = "planned"
    model: str
    variant: str
    storage: Storage
    sizes: str
    sources: tuple[SourceDocument, ...]
    parts: tuple[PartDocument, ...]
    ignored: tuple[str, ...]


class Progress(_Message):
    """How far a stage is. Told a few times a second, and at the end of each item."""

    event: Literal["progress"] = "progress"
    stage: Stage
    item: str
    done_bytes: int
    total_bytes: int


class Note(_Message):
    """A sentence that people should read."""

    event: Literal["note"] = "note"
    text: str


class Finished(_Message):
    """The folder is there and whole.

    Attributes:
        was_there: nothing was made: it was there already, of the same model, variant, storage and sizes.
        manifest: as in the folder.
        peak_memory_bytes: the most that the process held in memory; None where the system does not tell.
    """

    event: Literal["finished"] = "finished"
    folder: Path
    was_there: bool
    manifest: Mapping[str, object]
    peak_memory_bytes: int | None


class Checked(_Message):
    """What `check` found. `differences` is empty when the folder is what its manifest says."""

    event: Literal["checked"] = "checked"
    folder: Path
    files: int
    size_bytes: int
    differences: tuple[str, ...]
    manifest: Mapping[str, object] | None


class Failed(_Message):
    """The last event of a run that did not finish.

    Attributes:
        cause: short name of what was wrong, for scripts.
        text: one sentence or a few: what is wrong and what to do.
        details: what is named by the dozen, such as tensors; all of them.
    """

    event: Literal["failed"] = "failed"
    cause: str
    text: str
    details: tuple[str, ...] = ()


Event = Planned | Progress | Note | Finished | Checked | Failed

_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: str) -> Event:
    """Reads one line of the module's output. Raises pydantic's ValidationError (a ValueError) when it is no event."""
    return _EVENTS.validate_json(line)
