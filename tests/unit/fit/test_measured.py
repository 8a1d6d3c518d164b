"""Predictions against what was measured on a GPU (docs/measurements): whatever is traced anew must still be above it, and near."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.fit.cost import Activations, Shape
from runtime.fit.gpus import baseline_ladders
from runtime.fit.ladder import ACTIVATION_NAMES
from runtime.fit.predict import explain, peak_bytes
from runtime.fit.workspaces import CUBLAS_BYTES, on_device, with_workspaces

_FILE = Path(__file__).parents[3] / "docs" / "measurements" / "2026-11-26-h100-peaks.json"
_RUNS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))["grid_runs"]


def _predicted(run: dict[str, Any]) -> tuple[dict[str, int], int]:
    """By phase, and in all."""
    width, height, frames = run["size"]
    shape = Shape(width=width, height=height, num_frames=frames, mode=run["mode"])
    (ladder,) = (ladder for ladder in baseline_ladders() if ladder.model == run["model"])
    (rung,) = (rung for rung in ladder.rungs if rung.placement == run["placement"])
    return {part.phase: part.peak_bytes for part in explain(rung, shape)}, peak_bytes(rung, shape)


@pytest.mark.parametrize("run", _RUNS, ids=[run["name"] for run in _RUNS])
def test_no_phase_took_more_than_is_predicted_when_it_was_measured(run: dict[str, Any]) -> None:
    phases, whole = _predicted(run)
    measured = {name: phase["peak_bytes"] for name, phase in run["phases"].items() if "peak_bytes" in phase}
    assert measured
    assert {name: peak for name, peak in measured.items() if peak > phases[name]} == {}
    if "denoise" in measured:
        # Near: at most a tenth above the highest phase.
        assert whole <= 1.1 * max(measured.values())


def test_denoising_is_left_as_it_was_traced_when_workspaces_are_added() -> None:
    traced = {name: Activations(fixed=1.0, per_token=2.0, per_pixel=3.0, per_frame_pixel=4.0) for name in ACTIVATION_NAMES}
    added = with_workspaces(traced)
    assert {name for name in added if added[name] == traced[name]} == {"denoise", "denoise_lazy", "denoise_chunked"}
    assert added["text"].fixed == 1.0 + CUBLAS_BYTES
    assert all(one.per_frame_pixel == 4.0 and one.per_token == 2.0 for one in added.values())


@pytest.mark.parametrize(("device", "is_gpu"), [("cuda", True), ("cuda:1", True), ("cpu", False)])
def test_workspaces_are_added_when_the_device_is_a_gpu(device: str, is_gpu: bool) -> None:
    traced = {name: Activations(fixed=1.0) for name in ACTIVATION_NAMES}
    assert on_device(device, traced) == (with_workspaces(traced) if is_gpu else traced)
