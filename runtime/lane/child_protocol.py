"""What the lane's agent and its pipeline process say to each other: JSON lines over a socket pair that only the two hold.

The agent sends `Start` once, then any number of `Render` and `Cancel`, then `Shutdown`. The child answers each `Render` with exactly one
`RenderEnded` or `ReplacementNeeded`, unless it dies. Before a `RenderEnded` it may say `GpuFreed`: then it takes another `Render` while the
attempt is finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from runtime.fit.cost import DeviceLimits, WorkerMemory
from runtime.lane.about import About
from runtime.lane.loading import LoadProgress
from runtime.lane.outcome import MemoryRecord, Outcome, OutOfMemory, Phase
from runtime.lane.parts import Figure, Part
from runtime.lane.start_failure import StartCause
from runtime.lane.state import Attempt

MAX_LINE_BYTES = 1024 * 1024
"""Far over what any message needs; a longer line is an error of the other side."""

REPLACE_EXIT_CODE = 75
"""Exit code of a child that asked to be replaced: memory did not come back, or its GPU context is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """First message: what the process is for.

    Attributes:
        catalog: dotted name of the `renderer.Catalog`, such as `lane_anisora.pipeline:catalog`.
        device: `auto`, `cpu` or `cuda:N`.
        warm_model: loaded at once; empty: nothing is.
        memory_budget_bytes: what the device has for this process, if not all its own; 0: that.
        memory_margin_bytes: kept free of predictions; None: the device's default.
        pinned_limit_bytes: host memory that may be pinned; None: the device's default.
        compile_blocks: of transformers, where the device lets them be.
        attention_backend: of transformers; `auto`: what the GPU and the installed packages offer.
        overlap: an attempt is finished beside the next one.
    """

    kind: Literal["start"] = "start"
    catalog: str
    profile: str
    models_dir: Path
    device: str
    object_store_url: str
    warm_model: str
    memory_budget_bytes: int = 0
    memory_margin_bytes: int | None = None
    pinned_limit_bytes: int | None = None
    attention_backend: str = "auto"
    compile_blocks: bool = False
    overlap: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release whose memory did not come back, so that the next process can finish the switch and its record."""

    model: str
    weight_bytes: int
    residue_bytes: int
    release_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Render:
    """Work on an attempt.

    Attributes:
        parameters: the effective request as `rules.parameters.to_parameters` gives it.
        placement: that admission named; empty: the process chooses.
        predicted_peak_bytes: for it, by admission; 0: not predicted.
        released: set when this process replaces one that could not free its memory.
        out_of_memory: what happened to the attempt in that process, oldest first; it counts as tries.
        trace_id: for log lines; empty: the task has no trace.
        is_timed: `PartEnded` is wanted.
    """

    kind: Literal["render"] = "render"
    attempt: Attempt
    parameters: dict[str, Any]
    artifact_prefix: str
    placement: str = ""
    predicted_peak_bytes: int = 0
    released: Release | None = None
    out_of_memory: tuple[OutOfMemory, ...] = ()
    trace_id: str = ""
    is_timed: bool = False

    def about(self) -> About:
        """For log lines."""
        return About(self.attempt, str(self.parameters.get("model", "")), self.trace_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """End the attempt at the next step or block; one that is not in work is ignored."""

    kind: Literal["cancel"] = "cancel"
    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown:
    """Release everything and exit with code 0."""

    kind: Literal["shutdown"] = "shutdown"


Command = Start | Render | Cancel | Shutdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The process is up; nothing is loaded yet.

    Attributes:
        device: for people: `cpu`, `NVIDIA A10G`.
        memory: what its device has and what placements cost there.
    """

    kind: Literal["started"] = "started"
    device: str
    memory: WorkerMemory | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsChanged:
    """The device has more or less for this process than when it was last told."""

    kind: Literal["limits_changed"] = "limits_changed"
    limits: DeviceLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentChanged:
    """This model is loaded and verified now; empty: none is."""

    kind: Literal["resident_changed"] = "resident_changed"
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """The process starts or loads a model, and is so far."""

    kind: Literal["loading"] = "loading"
    progress: LoadProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """The process could not start, or could not load the model to be kept warm; it exits. `reason` is for operators."""

    kind: Literal["load_failed"] = "load_failed"
    model: str
    reason: str
    cause: StartCause = StartCause.OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesStuck:
    """An attempt's files cannot be stored or fetched, and that is tried again: why, for operators. Empty: nothing is tried again."""

    kind: Literal["files_stuck"] = "files_stuck"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """How far the attempt is; progress is 0 to 99."""

    kind: Literal["progressed"] = "progressed"
    attempt: Attempt
    phase: Phase
    progress: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEnded:
    """A part of the attempt is over. Told only where it was asked for.

    Attributes:
        try_number: from 1; another try follows when the memory ran out.
        began_ns, ended_ns: nanoseconds since 1970.
        figures: numbers and names of this part, none of them a user's.
        has_failed: it was left by an error or a cancel.
    """

    kind: Literal["part_ended"] = "part_ended"
    attempt: Attempt
    part: Part
    try_number: int
    began_ns: int
    ended_ns: int
    figures: dict[str, Figure]
    has_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFreed:
    """The attempt's frames are in host memory and its part on the GPU is cleaned up and measured; its files are still to be made.

    Attributes:
        memory: its record, also if the process dies before the attempt's end.
    """

    kind: Literal["gpu_freed"] = "gpu_freed"
    attempt: Attempt
    memory: MemoryRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderEnded:
    """The attempt ended, its files are stored and the GPU is free. A failure's code is `cancelled` for whatever reason it was cancelled.

    Attributes:
        leaving: the process's last message: it takes no other attempt and exits with REPLACE_EXIT_CODE.
    """

    kind: Literal["render_ended"] = "render_ended"
    attempt: Attempt
    outcome: Outcome
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementNeeded:
    """The resident pipeline was released but its memory did not come back; the process exits with REPLACE_EXIT_CODE.

    Attributes:
        out_of_memory: what happened to the attempt so far.
    """

    kind: Literal["replacement_needed"] = "replacement_needed"
    attempt: Attempt
    released: Release
    out_of_memory: tuple[OutOfMemory, ...] = ()


Event = (
    Started
    | LimitsChanged
    | ResidentChanged
    | Loading
    | LoadFailed
    | FilesStuck
    | Progressed
    | PartEnded
    | GpuFreed
    | RenderEnded
    | ReplacementNeeded
)

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
_EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def encode_command(command: Command) -> bytes:
    """One line, newline included."""
    return _COMMANDS.dump_json(command) + b"\n"


def decode_command(line: bytes) -> Command:
    """Raises ValueError when the line is no command."""
    return _COMMANDS.validate_json(line)


def encode_event(event: Event) -> bytes:
    """One line, newline included."""
    return _EVENTS.dump_json(event) + b"\n"


def decode_event(line: bytes) -> Event:
    """Raises ValueError when the line is no event."""
    return _EVENTS.validate_json(line)
