"""One attempt inside the pipeline's process: check, load, render, store, clean up, record. Whatever is raised becomes an outcome."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from runtime.lane.child_protocol import Progressed, Render, RenderEnded, ReplacementNeeded
from runtime.lane.device import DeviceMemory, host_rss_bytes, host_rss_peak_bytes, is_out_of_gpu_memory
from runtime.lane.encode import FORMATS, write_preview, write_video
from runtime.lane.files import AttemptFiles, InputImageMissingError, StoreUnavailableError
from runtime.lane.outcome import Failure, FailureCode, MemoryRecord, Outcome, Phase, ResidencyChange, StoredVideo, unmeasured
from runtime.lane.renderer import RenderCancelled, RenderJob
from runtime.lane.resident_set import LoadError, MemoryNotReturnedError, ResidentSet, drop_frames
from runtime.rules.effective import effective
from runtime.rules.parameters import from_parameters
from runtime.rules.request import GenerationRequest, InvalidRequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_log = structlog.get_logger()

_DENOISED = 90
"""Progress when all steps are done; encoding takes it to 99."""
_ENCODED = 99


class UnfitRequestError(Exception):
    """This lane does not render the request; the text is safe to show."""


class FrameShapeError(Exception):
    """The pipeline gave other frames than the request asks for."""


class AttemptRunner:
    """Runs attempts one after another. One thread uses it."""

    def __init__(
        self,
        resident: ResidentSet,
        memory: DeviceMemory,
        files: AttemptFiles,
        is_cancelled: Callable[[Render], bool],
        tell: Callable[[Progressed], None],
    ) -> None:
        """Keeps what attempts need.

        Args:
            resident: loads the model.
            memory: of the device that it works on.
            files: images in, videos out.
            is_cancelled: whether this attempt shall end; asked at every step, block and frame, from this thread.
            tell: passes progress on.
        """
        self._resident = resident
        self._memory = memory
        self._files = files
        self._is_cancelled = is_cancelled
        self._tell = tell
        self.is_broken = False
        """The device no longer answers: this process must be replaced."""

    def run(self, order: Render) -> RenderEnded | ReplacementNeeded:
        """Runs one attempt to its end and takes its memory record; raises nothing that a pipeline may raise."""
        run = _Run(order, self._memory, self._is_cancelled, self._tell)
        rss_before_bytes = host_rss_bytes()
        result: StoredVideo | None = None
        failure: Failure | None = None
        try:
            self._memory.reset_peaks()
            result = self._render(run)
        except MemoryNotReturnedError as error:
            return ReplacementNeeded(attempt=order.attempt, released=error.released)
        except (RenderCancelled, Exception) as error:
            failure = self._failure(error)
            drop_frames(error)
        # From here on nothing of the render is referenced any more, so that cleaning up frees it.
        record = self._record(rss_before_bytes, run.change)
        outcome = Outcome(result=result, failure=failure, memory=record, render_s=run.render_s, denoise_s=run.denoise_s())
        return RenderEnded(attempt=order.attempt, outcome=outcome)

    def _render(self, run: _Run) -> StoredVideo:
        request = _checked(run.order)
        run.check()
        pipeline, run.change = self._resident.ensure(request.model, run.on_stage, run.order.released)
        run.check()
        run.on_loaded()
        images = self._files.images(request, run.check)
        frames = pipeline.render(RenderJob(request=request, images=images, on_step=run.on_step, check=run.on_block))
        run.check()
        expected = (request.num_frames, request.height, request.width, 3)
        if frames.shape != expected or frames.dtype != "uint8":
            msg = f"expected uint8 frames of shape {expected}, not {frames.dtype} of {frames.shape}"
            raise FrameShapeError(msg)
        return self._store(run, request, frames)

    def _store(self, run: _Run, request: GenerationRequest, frames: npt.NDArray[np.uint8]) -> StoredVideo:
        form = FORMATS[request.output_format]
        with tempfile.TemporaryDirectory(prefix="warmlane-") as folder:
            video, preview = Path(folder, "video" + form.suffix), Path(folder, "preview.jpg")
            write_video(frames, video, output_format=request.output_format, fps=request.fps, on_frame=run.on_frame)
            write_preview(frames, preview)
            run.render_s = time.monotonic() - run.started_s
            stored = self._files.store(run.order.artifact_prefix, video, preview, run.check)
        return StoredVideo(
            video_key=stored.video_key,
            media_type=form.media_type,
            size_bytes=stored.size_bytes,
            sha256=stored.sha256,
            preview_key=stored.preview_key,
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            fps=request.fps,
        )

    def _failure(self, error: BaseException) -> Failure:
        """What people are told; the log gets the kind of error and where, never its text: that may quote the prompt."""
        match error:
            case RenderCancelled():
                return Failure(code=FailureCode.CANCELLED, message="The render was cancelled.")
            case InvalidRequestError() | UnfitRequestError():
                return Failure(code=FailureCode.RENDER_FAILED, message=f"The lane refused the request: {error}")
            case InputImageMissingError():
                return Failure(code=FailureCode.RENDER_FAILED, message="An input image is no longer stored.")
            case StoreUnavailableError():
                _log.error("object_store_failed", reason=str(error))
                # Not the request's fault: the task may run again, as after the loss of a lane.
                return Failure(code=FailureCode.LANE_LOST, message="The object store did not take or give the files.")
            case LoadError():
                _log.error("load_failed", reason=str(error))
                self.is_broken = not error.is_clean
                if error.is_out_of_memory:
                    message = "The GPU's memory ran out while the model was loaded."
                    return Failure(code=FailureCode.GPU_MEMORY_EXCEEDED, message=message)
                return Failure(code=FailureCode.RENDER_FAILED, message="The model could not be loaded.")
        name = type(error).__name__
        _log.error("render_failed", error=name, frames=_where(error))
        if is_out_of_gpu_memory(error):
            return Failure(code=FailureCode.GPU_MEMORY_EXCEEDED, message="The GPU's memory ran out. Try fewer frames or a smaller size.")
        return Failure(code=FailureCode.RENDER_FAILED, message=f"The pipeline failed ({name}).")

    def _record(self, rss_before_bytes: int, change: ResidencyChange | None) -> MemoryRecord:
        started_s = time.monotonic()
        try:
            self._memory.cleanup()
            figures = self._memory.figures()
        except Exception as error:
            _log.error("device_lost", error=type(error).__name__, reason=str(error))
            self.is_broken = True
            return unmeasured(f"the device did not answer after the attempt ({type(error).__name__})")
        return MemoryRecord(
            measured_at=datetime.now(UTC),
            device=self._memory.device,
            allocated_bytes=figures.allocated_bytes,
            reserved_bytes=figures.reserved_bytes,
            peak_allocated_bytes=figures.peak_allocated_bytes,
            peak_reserved_bytes=figures.peak_reserved_bytes,
            driver_free_bytes=figures.driver_free_bytes,
            pinned_bytes=figures.pinned_bytes,
            host_rss_before_bytes=rss_before_bytes,
            host_rss_after_bytes=host_rss_bytes(),
            host_rss_peak_bytes=host_rss_peak_bytes(),
            cleanup_s=time.monotonic() - started_s,
            residency_change=change,
        )


class _Run:
    """What changes while one attempt runs: its times, its progress, whether it was cancelled."""

    def __init__(
        self, order: Render, memory: DeviceMemory, is_cancelled: Callable[[Render], bool], tell: Callable[[Progressed], None]
    ) -> None:
        self.order = order
        self.started_s = time.monotonic()
        self.render_s: float | None = None
        self.change: ResidencyChange | None = None
        self._memory = memory
        self._is_cancelled = is_cancelled
        self._tell = tell
        self._told = -1
        self._first_step_s: float | None = None
        self._last_step_s: float | None = None
        self._steps_between = 0

    def check(self) -> None:
        """Raises RenderCancelled when the attempt shall end."""
        if self._is_cancelled(self.order):
            raise RenderCancelled

    def on_stage(self, detail: str) -> None:
        """A load tells what it is doing. It is not cut short: half a model helps nobody."""
        self._send(Phase.LOADING, 0, detail)

    def on_loaded(self) -> None:
        """The model is resident. The agent must hear of it before the first step ends: it spares a load, and nothing after it."""
        self._send(Phase.INFERENCE, 0, "preparing the first step")

    def on_step(self, step: int, steps: int) -> None:
        """After a denoising step; `step` counts from 1."""
        self._memory.wait()
        now_s = time.monotonic()
        if self._first_step_s is None:
            self._first_step_s = now_s
        else:
            self._steps_between += 1
        self._last_step_s = now_s
        self._send(Phase.INFERENCE, _DENOISED * step // steps, f"step {step} of {steps}")
        self.check()

    def on_block(self) -> None:
        """Before a part of a step. Without the wait a GPU would have a whole step in its queue, which it works off after a cancel too."""
        self._memory.wait()
        self.check()

    def on_frame(self, written: int, frames: int) -> None:
        """After an encoded frame; told once per percent."""
        progress = _DENOISED + (_ENCODED - _DENOISED) * written // frames
        if progress != self._told:
            self._send(Phase.ENCODING, progress, "writing the video")
        self.check()

    def denoise_s(self) -> float | None:
        """Time of all steps, from the time between the first and the last one's end: nothing tells when the first began."""
        if self._first_step_s is None or self._last_step_s is None or self._steps_between == 0:
            return None
        return (self._last_step_s - self._first_step_s) * (self._steps_between + 1) / self._steps_between

    def _send(self, phase: Phase, progress: int, detail: str) -> None:
        self._told = progress
        self._tell(Progressed(attempt=self.order.attempt, phase=phase, progress=progress, detail=detail))


def _checked(order: Render) -> GenerationRequest:
    """The same rules as at every door, and the values that admission has to fill in."""
    request = from_parameters(order.parameters)
    if request.seed < 0 or effective(request, seed=request.seed) != request:
        msg = "it is not an effective request (sizes and frame counts snapped, the seed chosen)."
        raise UnfitRequestError(msg)
    return request


def _where(error: BaseException) -> list[str]:
    """File, line and function of each frame."""
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
