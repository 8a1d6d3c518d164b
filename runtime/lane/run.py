"""What changes while one attempt runs: its times, its progress, its phases with their peaks, whether it was cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.fit.placement import BY_NAME, MemoryPhase, Placement
from runtime.lane.child_protocol import PartEnded, Progressed, Render
from runtime.lane.outcome import OutOfMemory, Phase, PhasePeak, ResidencyChange
from runtime.lane.parts import OF_PHASE, Figure, Part
from runtime.lane.renderer import RenderCancelled

if TYPE_CHECKING:
    from runtime.fit.predict import Choice
    from runtime.lane.memory.port import DeviceMemory

_DENOISED = 90
"""Progress when all steps are done; encoding takes it to 99."""
_ENCODED = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """To whoever gives the attempts; called from the thread that runs them.

    Attributes:
        is_cancelled: whether this attempt shall end; asked at every step, block and frame.
        tell: passes progress and the ends of parts on.
    """

    is_cancelled: Callable[[Render], bool]
    tell: Callable[[Progressed | PartEnded], None]


class Run:
    """One attempt in work; its methods are what a load, a pipeline and an encoder call. One thread at a time uses it.

    Attributes:
        order: what is asked for.
        started_s: monotonic time of its arrival.
        render_s: set when the video is written: the time on the GPU and that of the encoding, without what lies between.
        change: the switch that preceded it.
        choice: placement of the try in work, with its predicted peak; None before it came to one.
        memory_phase: what is being done, as far as memory is concerned.
        out_of_memory: every time the memory ran out, oldest first.
        text_to_video_weights: what renders this request; empty where there is one answer only.
    """

    def __init__(self, order: Render, memory: DeviceMemory, callbacks: Callbacks) -> None:
        """Begins now."""
        self.order = order
        self.started_s = time.monotonic()
        self.render_s: float | None = None
        self._rendered_s = 0.0
        self._files_since_s = 0.0
        self.change: ResidencyChange | None = None
        self.choice: Choice | None = None
        self.memory_phase = MemoryPhase.LOAD
        self.out_of_memory: list[OutOfMemory] = list(order.out_of_memory)
        self.text_to_video_weights = ""
        self.peak_allocated_bytes: int | None = None
        self.peak_reserved_bytes: int | None = None
        self._memory = memory
        self._callbacks = callbacks
        self._told = -1
        self._phase_peaks: dict[MemoryPhase, int] = {}
        self._first_step_s: float | None = None
        self._last_step_s: float | None = None
        self._steps_between = 0
        self._tries = len(self.out_of_memory)
        # Since when the phase and the step in work are: None while none is.
        self._phase_since_ns: int | None = None
        self._step_since_ns: int | None = None

    @property
    def phase_peaks(self) -> tuple[PhasePeak, ...]:
        """Of the phases of the try in work that have ended, in their order; a load is none."""
        return tuple(PhasePeak(phase=phase, peak_bytes=peak) for phase, peak in self._phase_peaks.items())

    def begin_try(self, choice: Choice) -> None:
        """A try begins on this placement; what was measured of an earlier one's phases and steps no longer counts."""
        self.choice = choice
        self.memory_phase = MemoryPhase.LOAD
        self._phase_peaks.clear()
        self._first_step_s = self._last_step_s = None
        self._steps_between = 0
        self._tries += 1
        self._memory.reset_peaks()

    def end_phase(self, *, has_failed: bool = False) -> None:
        """Keeps the peaks of the phase in work, and begins to count anew. `has_failed`: an error or a cancel ended it."""
        figures = self._memory.figures()
        self._tell_phase(figures.peak_allocated_bytes, has_failed=has_failed)
        self.peak_allocated_bytes = _highest(self.peak_allocated_bytes, figures.peak_allocated_bytes)
        self.peak_reserved_bytes = _highest(self.peak_reserved_bytes, figures.peak_reserved_bytes)
        if figures.peak_allocated_bytes is not None and self.memory_phase is not MemoryPhase.LOAD:
            known = self._phase_peaks.get(self.memory_phase, 0)
            self._phase_peaks[self.memory_phase] = max(known, figures.peak_allocated_bytes)
        self._memory.reset_peaks()

    @property
    def placement(self) -> Placement:
        """Of the try in work. Raises RuntimeError before the first one."""
        if self.choice is None:
            msg = "no try has begun"
            raise RuntimeError(msg)
        return BY_NAME[self.choice.rung.placement]

    def ran_out(self, budget_bytes: int) -> OutOfMemory:
        """The memory ran out in the phase in work, of a device that has this budget now."""
        peak_bytes = self._memory.figures().peak_allocated_bytes or 0
        ran_out = OutOfMemory(phase=self.memory_phase, placement=self.placement.name, peak_bytes=peak_bytes, budget_bytes=budget_bytes)
        self.out_of_memory.append(ran_out)
        self.end_phase(has_failed=True)
        return ran_out

    def check(self) -> None:
        """Raises RenderCancelled when the attempt shall end."""
        if self._callbacks.is_cancelled(self.order):
            raise RenderCancelled

    def on_stage(self, detail: str) -> None:
        """A load tells what it is doing. It is not cut short: half a model helps nobody."""
        self._send(Phase.LOADING, 0, detail)

    def on_loaded(self) -> None:
        """The model is resident. The agent must hear of it before the first step ends: it spares a load, and nothing after it."""
        self._send(Phase.INFERENCE, 0, "preparing the first step" + self._again())

    def on_phase(self, phase: MemoryPhase) -> None:
        """A phase of the render begins: the one before it has its peak now."""
        self.end_phase()
        self.memory_phase = phase
        self._phase_since_ns = self._step_since_ns = time.time_ns()
        self.check()

    def on_step(self, step: int, steps: int) -> None:
        """After a denoising step; `step` counts from 1."""
        self._memory.wait()
        now_s = time.monotonic()
        if self._first_step_s is None:
            self._first_step_s = now_s
        else:
            self._steps_between += 1
        self._last_step_s = now_s
        self._tell_step(step, steps)
        self._send(Phase.INFERENCE, _DENOISED * step // steps, f"step {step} of {steps}" + self._again())
        self.check()

    def on_block(self) -> None:
        """Before a part of a step. Without the wait a GPU would have a whole step in its queue, which it works off after a cancel too."""
        self._memory.wait()
        self.check()

    def rendered(self) -> None:
        """The frames are there."""
        self._rendered_s = time.monotonic() - self.started_s

    def begin_files(self) -> None:
        """The encoding begins. Raises RenderCancelled when the attempt shall end."""
        self._files_since_s = time.monotonic()
        self.check()

    def written(self) -> None:
        """The video is encoded."""
        self.render_s = self._rendered_s + time.monotonic() - self._files_since_s

    def on_frame(self, written: int, frames: int) -> None:
        """After an encoded frame; told once per percent."""
        progress = _DENOISED + (_ENCODED - _DENOISED) * written // frames
        if progress > self._told:
            self._send(Phase.ENCODING, progress, "writing the video")
        self.check()

    def denoise_s(self) -> float | None:
        """Time of all steps, from the time between the first and the last one's end: nothing tells when the first began."""
        if self._first_step_s is None or self._last_step_s is None or self._steps_between == 0:
            return None
        return (self._last_step_s - self._first_step_s) * (self._steps_between + 1) / self._steps_between

    @contextmanager
    def part(self, part: Part, **figures: Figure) -> Iterator[dict[str, Figure]]:
        """The block is a part of the attempt: told when it is over. What it gives takes figures that are known only then."""
        began_ns, has_failed = time.time_ns(), True
        try:
            yield figures
            has_failed = False
        finally:
            self._tell_part(part, began_ns, figures, has_failed=has_failed)

    def loaded(self, began_ns: int, change: ResidencyChange | None) -> None:
        """The model was made resident since then; nothing is told when it was there already."""
        if change is None:
            return
        figures: dict[str, Figure] = {
            "loaded_model": change.loaded_model,
            "loaded_bytes": change.loaded_bytes,
            "source": "host" if change.from_host else "disk",
            "load_s": change.load_s,
            "process_replaced": change.process_replaced,
        }
        if change.released_model:
            figures |= {
                "released_model": change.released_model,
                "released_bytes": change.released_bytes,
                "residue_bytes": change.residue_bytes,
                "release_s": change.release_s,
            }
        self._tell_part(Part.SWITCH if change.released_model else Part.LOAD, began_ns, figures)

    def load_failed(self, began_ns: int) -> None:
        """The model could not be made resident."""
        self._tell_part(Part.LOAD, began_ns, {}, has_failed=True)

    def _tell_phase(self, peak_bytes: int | None, *, has_failed: bool) -> None:
        began_ns, self._phase_since_ns = self._phase_since_ns, None
        if began_ns is None:
            return
        figures: dict[str, Figure] = {"placement": self.placement.name}
        if peak_bytes is not None:
            figures["peak_bytes"] = peak_bytes
        self._tell_part(OF_PHASE[self.memory_phase], began_ns, figures, has_failed=has_failed)

    def _tell_step(self, step: int, steps: int) -> None:
        # The next one begins where this one ends.
        ended_ns = time.time_ns()
        began_ns, self._step_since_ns = self._step_since_ns, ended_ns
        if began_ns is not None and self._phase_since_ns is not None:
            self._tell_part(Part.STEP, began_ns, {"step": step, "steps": steps}, ended_ns=ended_ns)

    def _tell_part(
        self, part: Part, began_ns: int, figures: dict[str, Figure], *, ended_ns: int | None = None, has_failed: bool = False
    ) -> None:
        order = self.order
        if order.is_timed:
            self._callbacks.tell(
                PartEnded(
                    attempt=order.attempt,
                    part=part,
                    try_number=max(1, self._tries),
                    began_ns=began_ns,
                    ended_ns=time.time_ns() if ended_ns is None else ended_ns,
                    figures=figures,
                    has_failed=has_failed,
                )
            )

    def _again(self) -> str:
        return " (again, with less GPU memory)" if self.out_of_memory else ""

    def _send(self, phase: Phase, progress: int, detail: str) -> None:
        # A second try begins at its first step; what people see never falls.
        self._told = max(self._told, progress)
        self._callbacks.tell(Progressed(attempt=self.order.attempt, phase=phase, progress=self._told, detail=detail))


def _highest(known: int | None, new: int | None) -> int | None:
    return new if known is None else known if new is None else max(known, new)
