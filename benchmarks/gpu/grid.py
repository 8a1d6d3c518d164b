"""Peaks against predictions and seconds a step, for every size, mode and placement that the prediction lets fit."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bench import PICTURE_KEY, Bench, request_of
from runtime.fit.cost import Shape
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.fit.predict import peak_bytes
from runtime.lane.raised import drop_frames
from runtime.lane.renderer import RenderJob

if TYPE_CHECKING:
    from runtime.rules.request import GenerationRequest

_STEPS = 2
"""With AniSora's schedule one for each expert; a longer denoising has the same peak."""


def measure_grid(bench: Bench) -> list[dict[str, Any]]:
    """(a) and (c): peak against prediction, and seconds a step, for sizes, modes and placements that the prediction lets fit."""
    rows: list[dict[str, Any]] = []
    for size in bench.plan.grid:
        for model in bench.catalog.models():
            bench.resident.ensure(model, lambda _stage: None)
            for mode in ("t2v", "i2v", "first_last_frame"):
                rows += _cells(bench, model, mode, size)
    return rows


def _cells(bench: Bench, model: str, mode: str, size: tuple[int, int, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    request = replace(request_of(model, mode, size), steps=_STEPS)
    shape = Shape(width=request.width, height=request.height, num_frames=request.num_frames, mode=mode)
    fitting = [rung for rung in bench.ladders.of(model).rungs if peak_bytes(rung, shape) <= bench.memory.limits().budget_bytes]
    if mode != "t2v":
        # The modes differ in the encoding only.
        fitting = fitting[:1]
    for rung in fitting:
        name = f"{model} {mode} {size[0]}x{size[1]}x{size[2]} {rung.placement}"
        # From the last row's time: steps grow at least with the tokens.
        needed_s = max((row["render_s"] * shape.tokens / row["tokens"] for row in rows), default=0.0)
        if bench.has_time(name, needed_s):
            told = replace(request, prompt=f"{request.prompt}, {rung.placement}")  # a text that is not known yet
            rows.append(_cell(bench, told, shape, rung.placement, peak_bytes(rung, shape)))
    return rows


def _cell(bench: Bench, request: GenerationRequest, shape: Shape, placement: str, predicted_bytes: int) -> dict[str, Any]:
    from PIL import Image

    memory, picture = bench.memory, Image.new("RGB", (request.width, request.height), (90, 120, 160))
    peaks: dict[str, int] = {}
    phase, steps = MemoryPhase.LOAD, list[float]()

    def on_phase(following: MemoryPhase) -> None:
        nonlocal phase
        peaks[phase] = max(peaks.get(phase, 0), memory.figures().peak_allocated_bytes or 0)
        memory.reset_peaks()
        phase = following

    def on_step(_step: int, _steps: int) -> None:
        memory.wait()
        steps.append(time.monotonic())

    memory.cleanup()
    memory.reset_peaks()
    job = RenderJob(
        request=request,
        images={PICTURE_KEY: picture},
        placement=BY_NAME[placement],
        on_phase=on_phase,
        on_step=on_step,
        check=memory.wait,
    )
    started_s, failure = time.monotonic(), ""
    try:
        bench.resident.pipeline.render(job)
    except RuntimeError as error:
        failure = f"{type(error).__name__}: {error}"[:200]
        drop_frames(error)
    render_s = time.monotonic() - started_s
    on_phase(MemoryPhase.LOAD)
    reserved_bytes = memory.figures().peak_reserved_bytes
    memory.cleanup()
    measured_bytes = max(peaks.values(), default=0)
    return {
        "model": request.model,
        "mode": request.mode,
        "size": f"{request.width}x{request.height}x{request.num_frames}",
        "tokens": shape.tokens,
        "placement": placement,
        "predicted_bytes": predicted_bytes,
        "peak_bytes": measured_bytes,
        "measured_over_predicted": round(measured_bytes / predicted_bytes, 4),
        "last_phase_reserved_bytes": reserved_bytes,
        "phase_peaks": {str(name): peak for name, peak in peaks.items() if peak},
        "seconds_per_step": round(steps[-1] - steps[-2], 4) if len(steps) > 1 else None,
        "render_s": round(render_s, 3),
        "live_after_bytes": memory.live_bytes(),
        "failure": failure,
    }
