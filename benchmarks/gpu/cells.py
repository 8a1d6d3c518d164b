"""The grid of sizes, modes and placements: which cells a prediction lets fit, and what was measured of each, put together of its phases.

What a mode, a size or a placement does not change is measured once. So a cell has the phases of its own render where there was one, and
else those of renders in which the phase does the same work: encoding the same video, whatever pictures are in it, with the VAE whole or
tiled (`t2v` of AniSora encodes an empty one, which takes less); decoding likewise, for either model; denoising in the same placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.fit.cost import ModelLadder, Rung, Shape
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.fit.predict import explain, peak_bytes

Size = tuple[int, int, int]
"""Width, height, frames."""
Runs = Sequence[Mapping[str, Any]]
"""Renders as `grid` wrote them down."""

WHOLE_MODE = "i2v"
"""Rendered whole; every model has it."""
OTHER_MODES: Mapping[str, tuple[str, ...]] = {
    "anisora": ("t2v", "first_last_frame", "arbitrary_frame"),
    "phr00t": ("t2v", "first_last_frame"),
}

_LAYERS, _WIDTH, _WEIGHTS = 40, 5120, 14.3e9
"""Of the published transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model, mode and size in one placement."""

    model: str
    mode: str
    size: Size
    rung: Rung

    @property
    def shape(self) -> Shape:
        """What predictions are made for."""
        width, height, frames = self.size
        return Shape(width=width, height=height, num_frames=frames, mode=self.mode)

    @property
    def size_name(self) -> str:
        """As people write it."""
        return "x".join(map(str, self.size))

    @property
    def name(self) -> str:
        """Of its render."""
        return f"{self.model} {self.mode} {self.size_name} {self.rung.placement}"

    @property
    def cost(self) -> float:
        """Operations of a pass: they grow with tokens and with their square."""
        tokens = self.shape.tokens
        return 2 * _WEIGHTS * tokens + 4 * _LAYERS * _WIDTH * tokens**2

    @property
    def predicted_bytes(self) -> int:
        """The peak."""
        return peak_bytes(self.rung, self.shape)


def fitting(ladder: ModelLadder, budget_bytes: int, mode: str, size: Size) -> list[Cell]:
    """The placements that the prediction lets fit, fastest first."""
    cells = [Cell(model=ladder.model, mode=mode, size=size, rung=rung) for rung in ladder.rungs]
    return [cell for cell in cells if cell.predicted_bytes <= budget_bytes]


def rows_of(ladders: Iterable[ModelLadder], budget_bytes: int, grid: Iterable[Size], runs: Runs) -> list[dict[str, Any]]:
    """A row for each cell that fits and whose phases were all measured."""
    models = tuple(ladders)
    return [
        row
        for size in grid
        for ladder in models
        for mode in (WHOLE_MODE, *OTHER_MODES[ladder.model])
        for cell in fitting(ladder, budget_bytes, mode, size)
        if (row := _row(cell, runs)) is not None
    ]


def _row(cell: Cell, runs: Runs) -> dict[str, Any] | None:
    peaks: dict[str, int] = {}
    for part in explain(cell.rung, cell.shape):
        found = next(_alike(cell, part.phase, runs), None)
        if found is None:
            return None
        peaks[part.phase] = max(peaks.get(part.phase, 0), part.weights_bytes + found)
    measured = max(peaks.values())
    return {
        "model": cell.model,
        "mode": cell.mode,
        "size": cell.size_name,
        "placement": cell.rung.placement,
        "predicted_bytes": cell.predicted_bytes,
        "peak_bytes": measured,
        "predicted_over_measured": round(cell.predicted_bytes / measured, 4),
        "decided_by": max(peaks, key=lambda name: peaks[name]),
        "failure": "; ".join(run["failure"] for run in runs if run["failure"] and run["name"] == cell.name),
    }


def _alike(cell: Cell, phase: str, runs: Runs) -> Iterator[int]:
    """The phase's peak above its weights: of the cell's own render, then of renders in which that phase does the same work."""
    placement = BY_NAME[cell.rung.placement]
    for run in sorted(runs, key=lambda run: (run["name"] != cell.name, run["mode"] != cell.mode)):
        measured = run["phases"].get(phase, {})
        if "peak_bytes" not in measured or (run["model"] != cell.model and phase != MemoryPhase.DECODE):
            continue
        other, is_same_size = BY_NAME[run["placement"]], run["size"] == list(cell.size)
        is_same_vae = is_same_size and other.is_vae_tiled == placement.is_vae_tiled
        is_alike = {
            MemoryPhase.TEXT: other.weights is placement.weights,
            MemoryPhase.ENCODE: is_same_vae and run["mode"] in {cell.mode, WHOLE_MODE},
            MemoryPhase.DENOISE: is_same_size and other == placement,
            MemoryPhase.DECODE: is_same_vae,
        }
        if is_alike[MemoryPhase(phase)]:
            yield measured["peak_bytes"] - measured["weights_bytes"]
