"""The device is full when a phase begins: the attempt must end well one rung down, and the one after it as if nothing had been."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.bench import Bench, request_of
from runtime.fit.cost import Shape
from runtime.fit.placement import MemoryPhase
from runtime.lane.outcome import OutOfMemory
from runtime.lane.recovery import next_choice

_FROM = "resident"
"""The placement that every first try has: the fastest that both models have room for on an A10G."""

_NEEDED_S, _NEEDED_TINY_S = 20.0, 1.0
"""For two attempts."""


def measure_recovery(bench: Bench) -> list[dict[str, Any]]:
    """(d): a row for each model and phase; phases in which no leaner placement needs less are named as left out."""
    rows = []
    for model in bench.catalog.models():
        for phase in (MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE):
            name = f"recovery {model} {phase}"
            if not _has_leaner(bench, model, phase):
                bench.left_out.append(f"{name} (no placement below {_FROM} needs less there)")
            elif bench.has_time(name, _NEEDED_TINY_S if bench.plan.is_tiny else _NEEDED_S):
                rows.append(_row(bench, model, phase))
    return rows


def _has_leaner(bench: Bench, model: str, phase: MemoryPhase) -> bool:
    width, height, frames = bench.plan.small
    shape = Shape(width=width, height=height, num_frames=frames, mode="i2v")
    ran_out = OutOfMemory(phase=phase, placement=_FROM)
    return next_choice(bench.ladders.of(model), bench.memory.limits(), shape, ran_out) is not None


def _row(bench: Bench, model: str, phase: MemoryPhase) -> dict[str, Any]:
    request = request_of(model, "i2v", bench.plan.small)
    bench.catalog.phase = phase
    outcome = bench.attempt(request, _FROM)
    after = bench.attempt(request, _FROM)
    return {
        "model": model,
        "phase": phase.value,
        "recovered": outcome.failure is None,
        "out_of_memory": [f"{one.phase} {one.placement}" for one in outcome.memory.out_of_memory],
        "placement": outcome.memory.placement,
        "next_request_ok": after.failure is None and not after.memory.out_of_memory,
        "live_after_bytes": outcome.memory.allocated_bytes,
    }
