"""The part of an attempt that needs no GPU: encode, store, end. A thread does it beside the next render, one attempt after another."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.lane.child_protocol import RenderEnded
from runtime.lane.encode import FORMATS, write_preview, write_video
from runtime.lane.failures import failure_of
from runtime.lane.files import AttemptFiles
from runtime.lane.outcome import Failure, MemoryRecord, Outcome, StoredVideo
from runtime.lane.parts import Part
from runtime.lane.raised import drop_frames
from runtime.lane.renderer import RenderCancelled
from runtime.lane.run import Run
from runtime.lane.state import Attempt
from runtime.rules.request import GenerationRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """An attempt that needs the GPU no more.

    Attributes:
        frames: uint8 RGB of shape [num_frames, height, width, 3], in host memory of its own.
        memory: its record, whatever becomes of its files.
    """

    run: Run
    request: GenerationRequest
    frames: npt.NDArray[np.uint8]
    memory: MemoryRecord

    @property
    def attempt(self) -> Attempt:
        """Which."""
        return self.run.order.attempt


class Finisher:
    """Makes the files of rendered attempts. What it was given holds its frames in host memory until it has ended."""

    def __init__(self, files: AttemptFiles, tell: Callable[[RenderEnded], None]) -> None:
        """Starts nothing yet.

        Args:
            files: videos out.
            tell: called with the end of each attempt that was begun, from the thread that finishes them.
        """
        self._files = files
        self._tell = tell
        self._rendered: queue.Queue[Rendered] = queue.Queue()
        self._thread: threading.Thread | None = None

    def begin(self, rendered: Rendered) -> None:
        """Has it finished after those that were begun before; returns at once."""
        self._rendered.put(rendered)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="finisher", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Returns when all that was begun has ended and was told."""
        self._rendered.join()

    def finish(self, rendered: Rendered) -> RenderEnded:
        """Encodes and stores; raises nothing that these may raise."""
        run, result, failure = rendered.run, None, None
        with run.order.about().told():
            try:
                result = self._stored(rendered)
            except (RenderCancelled, Exception) as error:
                failure = failure_of(error)
                drop_frames(error)
        return RenderEnded(attempt=rendered.attempt, outcome=_outcome(rendered, result, failure, run))

    def _work(self) -> None:
        while True:
            self._finish_next()

    def _finish_next(self) -> None:
        # A method of its own, so that no name holds the frames while it waits for the next.
        rendered = self._rendered.get()
        try:
            self._tell(self.finish(rendered))
        finally:
            self._rendered.task_done()

    def _stored(self, rendered: Rendered) -> StoredVideo:
        run, request = rendered.run, rendered.request
        form = FORMATS[request.output_format]
        run.begin_files()
        with tempfile.TemporaryDirectory(prefix="warmlane-") as folder:
            video, preview = Path(folder, "video" + form.suffix), Path(folder, "preview.jpg")
            with run.part(Part.ENCODE, frames=request.num_frames, format=request.output_format):
                write_video(rendered.frames, video, output_format=request.output_format, fps=request.fps, on_frame=run.on_frame)
                write_preview(rendered.frames, preview)
            run.written()
            with run.part(Part.UPLOAD) as figures:
                stored = self._files.store(run.order.artifact_prefix, video, preview, run.check)
                figures["video_bytes"] = stored.size_bytes
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


def _outcome(rendered: Rendered, result: StoredVideo | None, failure: Failure | None, run: Run) -> Outcome:
    return Outcome(result=result, failure=failure, memory=rendered.memory, render_s=run.render_s, denoise_s=run.denoise_s())
