"""`warmlane plan` as people run it, with the figures of the facts in place of the shipped ones, so that every line can be calculated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from command_line import plan as plan_module
from command_line.__main__ import app
from command_line.failures import CommandError
from runtime.rules.catalogue import MODELS
from tests.unit.fit.figures import ANISORA, GIB, PHR00T

_RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "baseline_models", lambda: (ANISORA, PHR00T))


def _run(*words: str) -> Result:
    result = _RUNNER.invoke(app, ["plan", *words])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def _json(*words: str) -> Any:
    return json.loads(_run(*words, "--json").stdout)


def test_every_model_mode_size_and_length_has_a_row_when_nothing_is_asked() -> None:
    rows = _json()["rows"]
    assert len(rows) == sum(len(rules.modes) for rules in MODELS.values()) * 6 * 4
    assert {row["num_frames"] for row in rows} == {49, 81, 161, 241}


def test_placement_and_peak_are_told_when_a_request_fits() -> None:
    (row,) = _json("--model", "phr00t", "--mode", "i2v", "--width", "480", "--height", "832", "--frames", "81")["rows"]
    assert (row["fits"], row["placement"], row["host"]) == (True, "resident_tiled", "pinned")
    # 16.37 GiB of weights and 32,760 tokens * 24 * 5120 bytes: 3.75 GiB.
    assert row["predicted_peak_bytes"] / GIB == pytest.approx(20.12, abs=0.01)


def test_least_time_is_told_and_said_to_be_calculated() -> None:
    words = ("--model", "anisora", "--mode", "i2v", "--width", "480", "--height", "832", "--frames", "81")
    (row,) = _json(*words)["rows"]
    # 8 passes of 1.68 PFLOP at 70 TFLOPS.
    assert row["least_denoising_s"] == pytest.approx(192, rel=0.01)
    told = _run(*words).stdout
    assert "over 3 min 1" in told
    assert "time: calculated, not measured" in told


def test_what_fits_is_told_when_a_request_does_not() -> None:
    # The leanest rung of the figures takes 51,200 bytes a token; 8 GiB and more of them are over a T4's 13.56 GiB.
    told = _run("--gpu", "t4", "--model", "phr00t", "--width", "1280", "--height", "1280", "--frames", "241").stdout
    (row,) = _json("--gpu", "t4", "--model", "phr00t", "--mode", "t2v", "--width", "1280", "--height", "1280", "--frames", "241")["rows"]
    assert row["placement"] is None
    assert 0 < row["largest_num_frames"] < 241
    width, height = row["largest_size"]
    assert width == height < 1280
    assert f"does not fit; would fit: {row['largest_num_frames']} frames at this size or {width}x{height} at these frames" in told


def test_modes_share_a_line_when_they_come_to_the_same() -> None:
    lines = _run("--width", "480", "--height", "832", "--frames", "81").stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:3]] == [["anisora", "all", "480x832", "81"], ["phr00t", "all", "480x832", "81"]]


def test_counts_are_those_that_each_model_makes_when_frames_are_asked() -> None:
    rows = _json("--frames", "80")["rows"]
    assert {(row["model"], row["num_frames"]) for row in rows} == {("anisora", 73), ("phr00t", 77)}


def test_budget_and_assumptions_are_told_when_a_table_is_printed() -> None:
    told = _run("--frames", "81").stdout
    assert "NVIDIA A10G, fp8 weights: 22.06 GiB that torch sees - 0.50 other - 0.50 margin = 21.06 GiB budget" in told
    assert "other: assumed: " in told
    assert "host: assumed: " in told
    assert "time: calculated" in told


def test_weights_are_said_to_be_mapped_when_the_host_is_too_small() -> None:
    told = _run("--host-gib", "16", "--frames", "81").stdout
    assert "of 16.00 GiB: mapped from disk, slower" in told
    assert "fits" in told


def test_every_phase_of_every_placement_is_a_sum_when_it_is_explained() -> None:
    told = _json("--explain", "--model", "anisora", "--width", "480", "--height", "832", "--frames", "81")
    (model,) = told["models"]
    assert (model["tokens"], model["mode"]) == (32_760, "arbitrary_frame")
    assert [len(placement["phases"]) for placement in model["placements"]] == [4, 4, 4, 4, 4]
    for placement in model["placements"]:
        for phase in placement["phases"]:
            parts = ("weights_bytes", "fixed_bytes", "token_bytes", "pixel_bytes", "correction_bytes")
            assert sum(phase[part] for part in parts) == phase["peak_bytes"]
        assert placement["fits"] == (placement["predicted_peak_bytes"] <= told["gpu"]["budget_bytes"])


def test_sum_is_compared_with_the_budget_when_it_is_explained_for_people() -> None:
    told = _run("--explain", "--model", "anisora", "--width", "480", "--height", "832", "--frames", "81").stdout
    (line,) = [line for line in told.splitlines() if line.startswith("resident ") and "denoise" in line]
    # 13.53 + 3.48 = 17.01, and 0.5 of margin, beside 22.06 - 0.5 of the rest.
    assert line.split()[1:9] == ["denoise", "13.53", "0.00", "3.48", "0.00", "17.01", "0.50", "21.56"]
    assert line.rstrip().endswith("fits, the peak")


def test_the_size_of_a_request_without_one_is_explained_when_none_is_named() -> None:
    told = _json("--explain")["models"]
    assert {(model["width"], model["height"], model["num_frames"]) for model in told} == {(720, 1280, 81)}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gpu", "toaster"), "--gpu: toaster is not known; there are A10G, T4"),
        (("--model", "pony"), "--model: must be one of anisora, phr00t"),
        (("--model", "phr00t", "--mode", "arbitrary_frame"), "--mode: must be one of first_last_frame, i2v, t2v"),
        (("--width", "480"), "--width and --height go together"),
    ],
)
def test_option_is_refused_when_it_names_what_there_is_not(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        _run(*words)
