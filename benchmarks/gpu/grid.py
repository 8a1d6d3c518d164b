"""Peaks against predictions, phase by phase, for every size, mode and placement that the prediction lets fit.

What a mode, a size or a placement does not change is not measured twice. Every placement and size has a render of `i2v`. Of its denoising
the last pass is computed (`Inside.last_passes_only`). Pictures are encoded once with the VAE whole and once tiled; clips are decoded
likewise, and once for both models, whose VAE is the same. Other modes differ from `i2v` in what is encoded, so at some sizes they are
rendered up to the end of that; at the others the peak of `i2v` stands for theirs: the same video is encoded, whatever pictures are in it,
and with fewer of them in `t2v`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.gpu.bench import PICTURE_KEY, Bench, request_of
from runtime.fit.cost import Rung, Shape
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.fit.predict import PhasePrediction, explain, peak_bytes
from runtime.lane.raised import drop_frames
from runtime.lane.renderer import RenderJob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.gpu.inside import Encodings
    from runtime.rules.request import GenerationRequest

Size = tuple[int, int, int]
Runs = list[dict[str, Any]]

_WHOLE_MODE = "i2v"
"""Rendered whole; every model has it."""
_MODES = {"anisora": ("t2v", "first_last_frame", "arbitrary_frame"), "phr00t": ("t2v", "first_last_frame")}

_FASTEST = "resident"
"""Of the placements that fit; at the first size each transformer of it computes a pass."""

_LAYERS, _WIDTH, _WEIGHTS = 40, 5120, 14.3e9
"""Of the published transformers: what a pass costs grows with tokens and with their square."""


class _Enough(Exception):  # noqa: N818  # not an error: all that was to be measured is
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    model: str
    mode: str
    size: Size
    rung: Rung

    @property
    def shape(self) -> Shape:
        width, height, frames = self.size
        return Shape(width=width, height=height, num_frames=frames, mode=self.mode)

    @property
    def name(self) -> str:
        return f"{self.model} {self.mode} {self.size[0]}x{self.size[1]}x{self.size[2]} {self.rung.placement}"


def measure_grid(bench: Bench, runs: Runs, keep: Callable[[], None]) -> list[dict[str, Any]]:
    """Renders what `runs` does not have yet, as long as there is time, and gives a row for each cell of the grid.

    Args:
        bench: the device with both models.
        runs: measured before, perhaps in another run of this program on the same kind of GPU; what is measured now is added.
        keep: called after each.
    """
    known = {run["name"] for run in runs}
    encodings: Encodings = {}
    for cell, until in _wanted(bench):
        if cell.name in known:
            continue
        needed_s = max((run["seconds"] * _cost(cell) / run["cost"] for run in runs if run["mode"] == cell.mode), default=0.0)
        if bench.has_time(cell.name, min(needed_s, 200.0)):
            bench.resident.ensure(cell.model, lambda _stage: None)
            if until is None and any(_has_decoded_like(cell, run) for run in runs):
                until = MemoryPhase.DECODE  # noqa: PLW2901  # what is known already ends there
            runs.append(_measured(bench, cell, until, encodings))
            keep()
    return _rows(bench, runs)


def _wanted(bench: Bench) -> Iterator[tuple[_Cell, MemoryPhase | None]]:
    """Every render to be made, and the phase before which it ends; what matters most comes first."""
    for _frames, group in itertools.groupby(bench.plan.grid, key=lambda size: size[2]):
        sizes = list(group)
        for model in bench.catalog.models():
            for size in sizes:
                fitting = _fitting(bench, model, _WHOLE_MODE, size)
                yield from ((cell, None) for cell in fitting)
                by_tiling = {BY_NAME[cell.rung.placement].is_vae_tiled: cell.rung for cell in reversed(fitting)}
                for mode in _MODES[model] if size in bench.plan.mode_sizes else ():
                    yield from ((_Cell(model=model, mode=mode, size=size, rung=rung), MemoryPhase.DENOISE) for rung in by_tiling.values())


def _fitting(bench: Bench, model: str, mode: str, size: Size) -> list[_Cell]:
    cells = [_Cell(model=model, mode=mode, size=size, rung=rung) for rung in bench.ladders.of(model).rungs]
    return [cell for cell in cells if peak_bytes(cell.rung, cell.shape) <= bench.memory.limits().budget_bytes]


def _cost(cell: _Cell) -> float:
    tokens = cell.shape.tokens
    return 2 * _WEIGHTS * tokens + 4 * _LAYERS * _WIDTH * tokens**2


def _has_decoded_like(cell: _Cell, run: Mapping[str, Any]) -> bool:
    is_tiled = BY_NAME[cell.rung.placement].is_vae_tiled
    is_decoded = "peak_bytes" in run["phases"].get(MemoryPhase.DECODE, {})
    return is_decoded and run["size"] == list(cell.size) and BY_NAME[run["placement"]].is_vae_tiled == is_tiled


def _measured(bench: Bench, cell: _Cell, until: MemoryPhase | None, encodings: Encodings) -> dict[str, Any]:
    memory, request = bench.memory, request_of(cell.model, cell.mode, cell.size)
    phases: dict[str, dict[str, Any]] = {
        part.phase: {"predicted_bytes": part.peak_bytes, "weights_bytes": part.weights_bytes} for part in _explained(cell)
    }
    phase, since_s, highest_reserved = MemoryPhase.LOAD, time.monotonic(), 0

    def on_phase(following: MemoryPhase) -> None:
        nonlocal phase, since_s, highest_reserved
        memory.wait()
        figures, now_s = memory.figures(), time.monotonic()
        if phase is not MemoryPhase.LOAD and not (phase is MemoryPhase.ENCODE and is_encoded):
            phases[phase] |= {"peak_bytes": figures.peak_allocated_bytes or 0, "reserved_bytes": figures.peak_reserved_bytes or 0}
            phases[phase] |= {"seconds": round(now_s - since_s, 3)}
        memory.reset_peaks()
        phase, since_s = following, time.monotonic()
        if following is until:
            phase = MemoryPhase.LOAD
            raise _Enough

    key = (cell.model, cell.mode, cell.size, BY_NAME[cell.rung.placement].is_vae_tiled)
    is_encoded = key in encodings
    memory.cleanup()
    memory.reset_peaks()
    started_s, failure = time.monotonic(), ""
    try:
        is_first = cell.size == bench.plan.grid[0] and cell.rung.placement == _FASTEST
        inside = bench.inside
        with inside.last_passes_only(request.steps, is_each_computed=is_first), inside.encoding_from(encodings, key):
            bench.resident.pipeline.render(_job(request, cell, on_phase))
        on_phase(MemoryPhase.LOAD)
    except _Enough:
        pass
    except Exception as error:
        failure = f"{phase}: {type(error).__name__}: {error}"[:300]
        drop_frames(error)
    seconds = time.monotonic() - started_s
    memory.cleanup()
    print(f"{cell.name}: {seconds:.1f} s {failure}", flush=True)
    return {
        "name": cell.name,
        "model": cell.model,
        "mode": cell.mode,
        "size": list(cell.size),
        "placement": cell.rung.placement,
        "phases": phases,
        "cost": _cost(cell),
        "seconds": round(seconds, 3),
        "live_after_bytes": memory.live_bytes(),
        "device": memory.label,
        "failure": failure,
    }


def _explained(cell: _Cell) -> tuple[PhasePrediction, ...]:
    return explain(cell.rung, cell.shape)


def _job(request: GenerationRequest, cell: _Cell, on_phase: Callable[[MemoryPhase], None]) -> RenderJob:
    return RenderJob(
        request=request,
        images={PICTURE_KEY: Image.new("RGB", (request.width, request.height), (90, 120, 160))},
        placement=BY_NAME[cell.rung.placement],
        on_phase=on_phase,
        on_step=lambda _step, _steps: None,
        check=lambda: None,
    )


def _rows(bench: Bench, runs: Runs) -> list[dict[str, Any]]:
    """A row for each cell whose phases were all measured: its own where it has them, else those that are the same in another cell."""
    rows = []
    for size in bench.plan.grid:
        for model in bench.catalog.models():
            for mode in (_WHOLE_MODE, *_MODES[model]):
                rows += [row for cell in _fitting(bench, model, mode, size) if (row := _row(cell, runs)) is not None]
    return rows


def _row(cell: _Cell, runs: Runs) -> dict[str, Any] | None:
    peaks: dict[str, int] = {}
    for part in _explained(cell):
        found = next((one for one in _alike(cell, part.phase, runs)), None)
        if found is None:
            return None
        peaks[part.phase] = max(peaks.get(part.phase, 0), part.weights_bytes + found)
    predicted = peak_bytes(cell.rung, cell.shape)
    measured = max(peaks.values())
    failures = [run["failure"] for run in runs if run["failure"] and run["name"] == cell.name]
    return {
        "model": cell.model,
        "mode": cell.mode,
        "size": f"{cell.size[0]}x{cell.size[1]}x{cell.size[2]}",
        "placement": cell.rung.placement,
        "predicted_bytes": predicted,
        "peak_bytes": measured,
        "predicted_over_measured": round(predicted / measured, 4),
        "decided_by": max(peaks, key=lambda name: peaks[name]),
        "failure": "; ".join(failures),
    }


def _alike(cell: _Cell, phase: str, runs: Runs) -> Iterator[int]:
    """The phase's peak above its weights: of the cell's own render, then of renders in which that phase does the same work."""
    placement = BY_NAME[cell.rung.placement]
    for run in sorted(runs, key=lambda run: (run["name"] != cell.name, run["mode"] != cell.mode)):
        measured = run["phases"].get(phase, {})
        if "peak_bytes" not in measured or (run["model"] != cell.model and phase != MemoryPhase.DECODE):
            continue
        other, same_size = BY_NAME[run["placement"]], run["size"] == list(cell.size)
        is_alike = {
            MemoryPhase.TEXT: other.weights is placement.weights,
            MemoryPhase.ENCODE: same_size and run["mode"] in {cell.mode, _WHOLE_MODE} and other.is_vae_tiled == placement.is_vae_tiled,
            MemoryPhase.DENOISE: same_size and other == placement,
            MemoryPhase.DECODE: same_size and other.is_vae_tiled == placement.is_vae_tiled,
        }
        if is_alike[MemoryPhase(phase)]:
            yield measured["peak_bytes"] - measured["weights_bytes"]
