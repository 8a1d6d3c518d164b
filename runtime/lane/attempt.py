"""The part of an attempt that needs the GPU: check, load, render, clean up, record; out of memory, it tries once more, leaner."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from runtime.fit.cost import DeviceLimits, Shape
from runtime.lane.child_protocol import Render, RenderEnded, ReplacementNeeded
from runtime.lane.failures import UnfitRequestError, failure_of
from runtime.lane.files import AttemptFiles
from runtime.lane.finish import Rendered
from runtime.lane.ladders import Ladders
from runtime.lane.memory.process import host_rss_bytes
from runtime.lane.outcome import Failure, Outcome
from runtime.lane.parts import Part
from runtime.lane.raised import cause_of_load, drop_frames, has_run_out
from runtime.lane.recorder import MemoryRecorder
from runtime.lane.recovery import MAX_TRIES, first_choice, limits_now, next_choice
from runtime.lane.renderer import RenderCancelled, RenderJob
from runtime.lane.resident_set import LoadError, MemoryNotReturnedError, ResidentSet
from runtime.lane.run import Callbacks, Run
from runtime.lane.start_failure import reason_of
from runtime.rules.effective import effective
from runtime.rules.parameters import from_parameters
from runtime.rules.request import GenerationRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from runtime.fit.predict import Choice
    from runtime.lane.memory.port import DeviceMemory

_log = structlog.get_logger()


class FrameShapeError(Exception):
    """The pipeline gave other frames than the request asks for."""


class AttemptRunner:
    """Runs attempts one after another. One thread uses it."""

    def __init__(
        self,
        resident: ResidentSet,
        ladders: Ladders,
        memory: DeviceMemory,
        files: AttemptFiles,
        callbacks: Callbacks,
    ) -> None:
        """Keeps what attempts need.

        Args:
            resident: loads the model.
            ladders: what each placement costs.
            memory: of the device that it works on.
            files: images in.
            callbacks: to whoever gives the attempts.
        """
        self._resident = resident
        self._ladders = ladders
        self._memory = memory
        self._files = files
        self._callbacks = callbacks
        self._recorder = MemoryRecorder(memory)
        self._is_broken = False

    @property
    def is_broken(self) -> bool:
        """The device no longer answers, or memory did not come back: this process must be replaced."""
        return self._is_broken or self._recorder.is_lost

    def render(self, order: Render) -> Rendered | RenderEnded | ReplacementNeeded:
        """Takes an attempt as far as it needs the GPU, and takes its memory record; raises nothing that a pipeline may raise."""
        with order.about().told():
            return self._rendered(order)

    def _rendered(self, order: Render) -> Rendered | RenderEnded | ReplacementNeeded:
        run = Run(order, self._memory, self._callbacks)
        rss_before_bytes = host_rss_bytes()
        try:
            frames, request, failure = self._tried(run)
        except MemoryNotReturnedError as error:
            return ReplacementNeeded(attempt=order.attempt, released=error.released, out_of_memory=tuple(run.out_of_memory))
        # From here on nothing of the render but its frames, in host memory, is referenced any more, so that cleaning up frees it.
        record = self._recorder.record(run, model=self._resident.model, rss_before_bytes=rss_before_bytes, has_failed=failure is not None)
        if frames is not None and request is not None:
            return Rendered(run=run, request=request, frames=frames, memory=record)
        outcome = Outcome(failure=failure, memory=record, denoise_s=run.denoise_s())
        return RenderEnded(attempt=order.attempt, outcome=outcome)

    def _tried(self, run: Run) -> tuple[npt.NDArray[np.uint8] | None, GenerationRequest | None, Failure | None]:
        """How the last try ended. Raises MemoryNotReturnedError when another process has to go on."""
        choice: Choice | None = None
        while True:
            try:
                request = _checked(run.order)
                run.check()
                run.begin_try(choice or self._first_choice(run.order, request))
                return self._render(run, request), request, None
            except MemoryNotReturnedError:
                raise
            except (RenderCancelled, Exception) as error:
                is_out = _is_out_of_memory(error)
                failure = self._failure(error)
                drop_frames(error)
            # Only here, with the error gone, can what it held be freed.
            choice = self._recovered(run, request) if is_out else None
            if choice is None:
                return None, None, failure

    def _render(self, run: Run, request: GenerationRequest) -> npt.NDArray[np.uint8]:
        self._load(run, request.model)
        run.check()
        run.on_loaded()
        if request.mode == "t2v":
            run.text_to_video_weights = self._ladders.of(request.model).text_to_video_weights
        frames = self._resident.pipeline.render(
            RenderJob(
                request=request,
                images=self._images(run, request),
                placement=run.placement,
                on_phase=run.on_phase,
                on_step=run.on_step,
                check=run.on_block,
            )
        )
        run.end_phase()
        run.check()
        expected = (request.num_frames, request.height, request.width, 3)
        if frames.shape != expected or frames.dtype != "uint8":
            msg = f"expected uint8 frames of shape {expected}, not {frames.dtype} of {frames.shape}"
            raise FrameShapeError(msg)
        run.rendered()
        return frames

    def _load(self, run: Run, model: str) -> None:
        released, began_ns = run.order.released if run.change is None else None, time.time_ns()
        try:
            change = self._resident.ensure(model, run.on_stage, released)
        except (LoadError, MemoryNotReturnedError):
            run.load_failed(began_ns)
            raise
        run.loaded(began_ns, change)
        run.change = change or run.change

    def _images(self, run: Run, request: GenerationRequest) -> Mapping[str, Image]:
        if not request.images():
            return {}
        with run.part(Part.IMAGES, images=len({image.key for image in request.images()})):
            return self._files.images(request, run.check)

    def _first_choice(self, order: Render, request: GenerationRequest) -> Choice:
        """The placement of this process's first try; an earlier process may have run out of memory with a faster one."""
        try:
            ladder = self._ladders.of(request.model)
        except Exception as error:
            # The files of the model are not there, or not what they should be.
            raise LoadError(reason_of(error), is_clean=True, cause=cause_of_load(error)) from None
        limits, shape = self._limits_now(), _shape_of(request)
        if order.out_of_memory:
            choice = next_choice(ladder, limits, shape, order.out_of_memory[-1])
            if choice is not None:
                return choice
        return first_choice(ladder, limits, shape, ordered=order.placement, ordered_peak_bytes=order.predicted_peak_bytes)

    def _recovered(self, run: Run, request: GenerationRequest) -> Choice | None:
        """After the memory ran out: cleans up, and gives the placement of the next try; None when that was the last one.

        Raises MemoryNotReturnedError when another process has to do the next try.
        """
        choice: Choice | None = None
        try:
            limits = self._limits_now()
            ran_out = run.ran_out(max(0, limits.budget_bytes))
            if len(run.out_of_memory) < MAX_TRIES and not self._is_broken:
                choice = next_choice(self._ladders.of(request.model), limits, _shape_of(request), ran_out)
            following = choice.rung.placement if choice is not None else ""
            _log.warning("out_of_memory", phase=ran_out.phase, placement=ran_out.placement, next_placement=following)
            self._memory.cleanup()
            self._resident.renew(run.on_stage)
        except MemoryNotReturnedError:
            if choice is not None:
                raise
            self._is_broken = True
        except LoadError as error:
            _log.error("load_failed", reason=str(error))
            self._is_broken = self._is_broken or not error.is_clean
        except Exception as error:
            _log.error("device_lost", error=type(error).__name__, reason=str(error))
            self._is_broken = True
        return None if self._is_broken else choice

    def _limits_now(self) -> DeviceLimits:
        figures = self._memory.figures()
        return limits_now(self._memory.limits(), figures.driver_free_bytes, figures.reserved_bytes)

    def _failure(self, error: BaseException) -> Failure:
        if isinstance(error, LoadError):
            self._is_broken = not error.is_clean
        return failure_of(error)


def _checked(order: Render) -> GenerationRequest:
    """The same rules as at every door, and the values that admission has to fill in."""
    request = from_parameters(order.parameters)
    if request.seed < 0 or effective(request, seed=request.seed) != request:
        msg = "it is not an effective request (sizes and frame counts snapped, the seed chosen)."
        raise UnfitRequestError(msg)
    return request


def _shape_of(request: GenerationRequest) -> Shape:
    return Shape(width=request.width, height=request.height, num_frames=request.num_frames, mode=request.mode)


def _is_out_of_memory(error: BaseException) -> bool:
    return error.is_out_of_memory if isinstance(error, LoadError) else has_run_out(error)
