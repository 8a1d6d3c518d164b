"""Renders of the grid's cells, phase by phase, with the peak of each; `cells` puts them together.

Every placement and size has a render of `i2v`. Of its denoising the last pass is computed (`Inside.last_passes_only`). Pictures are encoded
once with the VAE whole and once tiled, and clips decoded likewise. Other modes differ from `i2v` in what is encoded, so at some sizes they
are rendered up to the end of that.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.gpu.bench import PICTURE_KEY, Bench, EnoughError, request_of
from benchmarks.gpu.cells import OTHER_MODES, WHOLE_MODE, Cell, fitting, rows_of
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.fit.predict import explain
from runtime.lane.raised import drop_frames
from runtime.lane.renderer import RenderJob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.gpu.inside import Encodings
    from runtime.rules.request import GenerationRequest

Runs = list[dict[str, Any]]

_FASTEST = "resident"
"""Of the placements that fit; at the first size each transformer of it computes a pass."""


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
        needed_s = max((run["seconds"] * cell.cost / run["cost"] for run in runs if run["mode"] == cell.mode), default=0.0)
        if bench.has_time(cell.name, min(needed_s, 200.0)):
            bench.resident.ensure(cell.model, lambda _stage: None)
            is_decoded = until is None and any(_has_decoded_like(cell, run) for run in runs)
            runs.append(_measured(bench, cell, MemoryPhase.DECODE if is_decoded else until, encodings))
            keep()
    ladders = [bench.ladders.of(model) for model in bench.catalog.models()]
    return rows_of(ladders, bench.memory.limits().budget_bytes, bench.plan.grid, runs)


def _wanted(bench: Bench) -> Iterator[tuple[Cell, MemoryPhase | None]]:
    """Every render to be made, and the phase before which it ends; what matters most comes first."""
    for _frames, group in itertools.groupby(bench.plan.grid, key=lambda size: size[2]):
        sizes = list(group)
        for model in bench.catalog.models():
            for size in sizes:
                fits = fitting(bench.ladders.of(model), bench.memory.limits().budget_bytes, WHOLE_MODE, size)
                yield from ((cell, None) for cell in fits)
                by_tiling = {BY_NAME[cell.rung.placement].is_vae_tiled: cell.rung for cell in reversed(fits)}
                for mode in OTHER_MODES[model] if size in bench.plan.mode_sizes else ():
                    yield from ((Cell(model=model, mode=mode, size=size, rung=rung), MemoryPhase.DENOISE) for rung in by_tiling.values())


def _has_decoded_like(cell: Cell, run: Mapping[str, Any]) -> bool:
    is_tiled = BY_NAME[cell.rung.placement].is_vae_tiled
    is_decoded = "peak_bytes" in run["phases"].get(MemoryPhase.DECODE, {})
    return is_decoded and run["size"] == list(cell.size) and BY_NAME[run["placement"]].is_vae_tiled == is_tiled


def _measured(bench: Bench, cell: Cell, until: MemoryPhase | None, encodings: Encodings) -> dict[str, Any]:
    memory, request = bench.memory, request_of(cell.model, cell.mode, cell.size)
    phases: dict[str, dict[str, Any]] = {
        part.phase: {"predicted_bytes": part.peak_bytes, "weights_bytes": part.weights_bytes} for part in explain(cell.rung, cell.shape)
    }
    phase, since_s = MemoryPhase.LOAD, time.monotonic()

    def on_phase(following: MemoryPhase) -> None:
        nonlocal phase, since_s
        memory.wait()
        figures, now_s = memory.figures(), time.monotonic()
        if phase is not MemoryPhase.LOAD and not (phase is MemoryPhase.ENCODE and is_encoded):
            phases[phase] |= {"peak_bytes": figures.peak_allocated_bytes or 0, "reserved_bytes": figures.peak_reserved_bytes or 0}
            phases[phase] |= {"seconds": round(now_s - since_s, 3)}
        memory.reset_peaks()
        phase, since_s = following, time.monotonic()
        if following is until:
            phase = MemoryPhase.LOAD
            raise EnoughError

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
    except EnoughError:
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
        "cost": cell.cost,
        "seconds": round(seconds, 3),
        "live_after_bytes": memory.live_bytes(),
        "device": memory.label,
        "failure": failure,
    }


def _job(request: GenerationRequest, cell: Cell, on_phase: Callable[[MemoryPhase], None]) -> RenderJob:
    return RenderJob(
        request=request,
        images={PICTURE_KEY: Image.new("RGB", (request.width, request.height), (90, 120, 160))},
        placement=BY_NAME[cell.rung.placement],
        on_phase=on_phase,
        on_step=lambda _step, _steps: None,
        check=lambda: None,
    )
