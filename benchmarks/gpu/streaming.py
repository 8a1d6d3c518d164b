"""What it costs to bring the blocks one by one while the transformer works, against having it whole on the device."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from benchmarks.gpu.bench import Bench, EnoughError, request_of
from runtime.fit.cost import Shape
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.fit.predict import peak_bytes
from runtime.lane.renderer import RenderJob

_STEPS = 4
"""AniSora's schedule has two for each expert then; the first of each brings the weights and does not count."""

_NEEDED_S, _NEEDED_TINY_S = 120.0, 5.0


def measure_streaming(bench: Bench) -> list[dict[str, Any]]:
    """(c): a row for each model: seconds a step with the fastest placement that fits, and streamed, in turns."""
    rows = []
    for model in bench.catalog.models():
        width, height, frames = bench.plan.grid[0]
        shape = Shape(width=width, height=height, num_frames=frames, mode="t2v")
        fitting = [
            rung.placement for rung in bench.ladders.of(model).rungs if peak_bytes(rung, shape) <= bench.memory.limits().budget_bytes
        ]
        whole = next((name for name in fitting if name in {"resident", "resident_tiled"}), "")
        name = f"streaming {model} {width}x{height}x{frames}"
        if not whole or "streamed" not in fitting:
            bench.left_out.append(f"{name} (the transformer does not fit whole)")
        elif bench.has_time(name, _NEEDED_TINY_S if bench.plan.is_tiny else _NEEDED_S):
            bench.resident.ensure(model, lambda _stage: None)
            taken: dict[str, list[float]] = {whole: [], "streamed": []}
            for placement in (whole, "streamed", "streamed", whole):
                taken[placement] += _step_seconds(bench, model, placement)
            seconds = {placement: statistics.median(times) for placement, times in taken.items()}
            rows.append(
                {
                    "model": model,
                    "size": f"{width}x{height}x{frames}",
                    "whole": whole,
                    "whole_step_s": round(seconds[whole], 4),
                    "streamed_step_s": round(seconds["streamed"], 4),
                    "streamed_over_whole": round(seconds["streamed"] / seconds[whole], 4),
                    "all_s": {placement: [round(one, 4) for one in times] for placement, times in taken.items()},
                }
            )
    return rows


def _step_seconds(bench: Bench, model: str, placement: str) -> list[float]:
    """Of the steps that bring no weights of a whole transformer: the second of each expert, all but the first of a single one."""
    request = replace(request_of(model, "t2v", bench.plan.grid[0]), steps=_STEPS)
    ends: list[float] = []

    def on_step(_step: int, _steps: int) -> None:
        bench.memory.wait()
        ends.append(time.monotonic())

    def on_phase(phase: MemoryPhase) -> None:
        if phase is MemoryPhase.DECODE:
            raise EnoughError

    job = RenderJob(request=request, images={}, placement=BY_NAME[placement], on_phase=on_phase, on_step=on_step, check=lambda: None)
    with suppress(EnoughError):
        bench.resident.pipeline.render(job)
    bench.memory.cleanup()
    steps = [after - before for before, after in pairwise(ends)]
    # Phr00t's last step is of one pass where the others are of two.
    return [steps[0], steps[2]] if model == "anisora" else steps[:2]
