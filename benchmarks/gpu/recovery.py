"""The device is full when a phase begins: the attempt must end well one rung down, and the one after it as if nothing had been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bench import Bench, request_of
from runtime.fit.cost import Shape
from runtime.fit.placement import MemoryPhase
from runtime.fit.predict import explain
from runtime.lane.outcome import OutOfMemory
from runtime.lane.recovery import next_choice

if TYPE_CHECKING:
    from collections.abc import Iterator

_FROM = "resident"
"""The placement that every first try has: the fastest that both models have room for on an A10G."""

_NEEDED_S, _NEEDED_TINY_S = 20.0, 1.0
"""For two attempts."""

_SPARED_BYTES, _SPARED_TINY_BYTES = 16 * 1024**2, 64 * 1024
"""Beside the weights, for work that then runs out; less than a clip of any size needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """`is_load`: not even the phase's weights get to the device; else they do, and its work runs out of memory."""

    phase: MemoryPhase
    is_load: bool

    @property
    def name(self) -> str:
        return f"load of {self.phase}" if self.is_load else str(self.phase)


_CASES = (
    *(_Case(phase=phase, is_load=True) for phase in (MemoryPhase.TEXT, MemoryPhase.DENOISE)),
    *(_Case(phase=phase, is_load=False) for phase in (MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE)),
)


def measure_recovery(bench: Bench) -> list[dict[str, Any]]:
    """(d): a row for each model and case; phases in which no leaner placement needs less are named as left out."""
    return list(_rows(bench))


def _rows(bench: Bench) -> Iterator[dict[str, Any]]:
    for model in bench.catalog.models():
        for case in _CASES:
            name = f"recovery {model} {case.name}"
            if not _has_leaner(bench, model, case.phase):
                bench.left_out.append(f"{name} (no placement below {_FROM} needs less there)")
            elif bench.has_time(name, _NEEDED_TINY_S if bench.plan.is_tiny else _NEEDED_S):
                yield _row(bench, model, case)


def _shape(bench: Bench) -> Shape:
    width, height, frames = bench.plan.recovered
    return Shape(width=width, height=height, num_frames=frames, mode="i2v")


def _has_leaner(bench: Bench, model: str, phase: MemoryPhase) -> bool:
    ran_out = OutOfMemory(phase=phase, placement=_FROM)
    return next_choice(bench.ladders.of(model), bench.memory.limits(), _shape(bench), ran_out) is not None


def _row(bench: Bench, model: str, case: _Case) -> dict[str, Any]:
    request = request_of(model, "i2v", bench.plan.recovered)
    rung = next(rung for rung in bench.ladders.of(model).rungs if rung.placement == _FROM)
    weights_bytes = max(part.weights_bytes for part in explain(rung, _shape(bench)) if part.phase == case.phase)
    spared_bytes = _SPARED_TINY_BYTES if bench.plan.is_tiny else _SPARED_BYTES
    bench.catalog.spared_bytes = 0 if case.is_load else weights_bytes + spared_bytes
    bench.catalog.phase = case.phase
    outcome = bench.attempt(request, _FROM)
    after = bench.attempt(request_of(model, "i2v", bench.plan.recovered), _FROM)
    return {
        "model": model,
        "ran_out_in": case.name,
        "recovered": outcome.failure is None,
        "failure": "" if outcome.failure is None else f"{outcome.failure.code}: {outcome.failure.message}",
        "out_of_memory": [f"{one.phase} {one.placement}" for one in outcome.memory.out_of_memory],
        "placement": outcome.memory.placement,
        "next_request_ok": after.failure is None and not after.memory.out_of_memory,
        "next_placement": after.memory.placement,
        "live_after_bytes": outcome.memory.allocated_bytes,
    }
