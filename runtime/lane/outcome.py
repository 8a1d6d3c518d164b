"""What an attempt leaves behind: files or a failure, and a memory record. Plain values; the lane's two processes share them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class FailureCode(StrEnum):
    """The codes that a lane gives; the design's table says what each means."""

    RENDER_FAILED = "render_failed"
    GPU_MEMORY_EXCEEDED = "gpu_memory_exceeded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    LANE_LOST = "lane_lost"


class Phase(StrEnum):
    """What is being done for an attempt that has not ended."""

    LOADING = "loading"
    INFERENCE = "inference"
    ENCODING = "encoding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there are no files. `message` is safe to show: no path, no prompt, no trace."""

    code: FailureCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVideo:
    """The files of an attempt, all stored.

    Attributes:
        sha256: of the video file, lower-case hex.
    """

    video_key: str
    media_type: str
    size_bytes: int
    sha256: str
    preview_key: str
    width: int
    height: int
    num_frames: int
    fps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyChange:
    """One switch of the resident pipeline: release, verify, load.

    Attributes:
        released_model: empty when none was resident.
        residue_bytes: live tensor bytes after the release, above the least that was ever alive before a load in this process; 0 when they
            are within what the device's libraries may keep.
        process_replaced: the memory did not come back, so a new process loaded the next pipeline.
        from_host: the loaded model's weights were in host memory already; nothing was read from disk.
    """

    loaded_model: str
    loaded_bytes: int
    load_s: float
    released_model: str = ""
    released_bytes: int = 0
    residue_bytes: int = 0
    release_s: float = 0.0
    process_replaced: bool = False
    from_host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePeak:
    """Highest allocated bytes of a phase, weights included. `phase` is a `MemoryPhase`."""

    phase: str
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """The memory ran out, in this phase with this placement.

    Attributes:
        peak_bytes: allocated by then, weights included; 0: not known.
        budget_bytes: what could be used of the device then, the margin kept free; 0: not known.
    """

    phase: str
    placement: str
    peak_bytes: int = 0
    budget_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRecord:
    """The memory of one attempt, taken after cleanup; sizes in bytes, None where the device cannot tell.

    Attributes:
        unmeasured_reason: set when nothing could be measured; every figure is then None.
        residency_change: set when a switch preceded the attempt.
        placement: of the last try; empty when it did not come to one.
        predicted_peak_bytes: for that placement and this request; 0: not predicted.
        phase_peaks: of the last try.
        out_of_memory: every time the memory ran out, oldest first.
        text_to_video_weights: what rendered a `t2v` of a model that has weights for image-to-video; see `fit.cost.TextToVideoWeights`.
        drift_bytes: live bytes after cleanup above the least seen after an attempt of this process with the same model resident.
    """

    measured_at: datetime
    unmeasured_reason: str = ""
    device: str = ""
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    driver_free_bytes: int | None = None
    host_rss_before_bytes: int | None = None
    host_rss_after_bytes: int | None = None
    host_rss_peak_bytes: int | None = None
    pinned_bytes: int | None = None
    cleanup_s: float | None = None
    residency_change: ResidencyChange | None = None
    placement: str = ""
    predicted_peak_bytes: int = 0
    phase_peaks: tuple[PhasePeak, ...] = ()
    out_of_memory: tuple[OutOfMemory, ...] = ()
    drift_bytes: int | None = None
    text_to_video_weights: str = ""


def unmeasured(reason: str) -> MemoryRecord:
    """The record of an attempt that nothing could be measured of."""
    return MemoryRecord(measured_at=datetime.now(UTC), unmeasured_reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended: exactly one of `result` and `failure` is set.

    Attributes:
        render_s: from the lease's arrival to the end of encoding; None when it did not get there.
        denoise_s: from the first denoising step's start to the last one's end; None when not measured.
    """

    memory: MemoryRecord
    result: StoredVideo | None = None
    failure: Failure | None = None
    render_s: float | None = None
    denoise_s: float | None = None
