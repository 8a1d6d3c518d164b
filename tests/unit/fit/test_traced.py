"""The shipped figures: what is written is read again, what is wrong is refused, and the real models fit the baseline GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runtime.fit.cost import Shape
from runtime.fit.gpus import BASELINE, GPUS, baseline_ladders
from runtime.fit.ladder import ACTIVATION_NAMES
from runtime.fit.placement import PLACEMENTS
from runtime.fit.predict import choose, peak_bytes
from runtime.fit.traced import TRACED, TracedDataError, document, parse
from runtime.rules.catalogue import MODELS
from tests.unit.fit.figures import ANISORA, PHR00T

_EXAMPLE = {"anisora": ANISORA, "phr00t": PHR00T}


def test_models_are_the_same_when_they_were_written_and_read() -> None:
    assert parse(document(_EXAMPLE)) == _EXAMPLE


def test_ladder_is_refused_when_no_weights_are_stored_so() -> None:
    with pytest.raises(ValueError, match="anisora: no weights stored as float32; there are fp8"):
        ANISORA.ladder("float32")


def _version(content: dict[str, Any]) -> None:
    content["version"] = 2


def _shrinking(content: dict[str, Any]) -> None:
    content["models"]["anisora"]["activations"]["decode"]["per_pixel"] = -1.0


def _nameless(content: dict[str, Any]) -> None:
    del content["models"]["anisora"]["parts"]["fp8"][0]["name"]


def _unknown(content: dict[str, Any]) -> None:
    content["models"]["anisora"]["activations"]["decode"]["per_second"] = 1.0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_version, "version 2 is not 1"),
        (_shrinking, "anisora decode: activations that shrink with size"),
        (_nameless, "KeyError: 'name'"),
        (_unknown, "per_second"),
    ],
)
def test_document_is_refused_when_it_is_not_of_the_schema(spoil: Callable[[dict[str, Any]], None], told: str) -> None:
    content = json.loads(document(_EXAMPLE))
    spoil(content)
    with pytest.raises(TracedDataError, match=told):
        parse(json.dumps(content))


def test_document_is_refused_when_it_is_no_json() -> None:
    with pytest.raises(TracedDataError, match="JSONDecodeError"):
        parse("{")


# --- the file that is shipped


def test_both_models_are_there_real_and_tiny_when_the_file_is_read() -> None:
    assert {key: (traced.model, traced.profile) for key, traced in TRACED.items()} == {
        "anisora": ("anisora", "a10g"),
        "phr00t": ("phr00t", "a10g"),
        "anisora-tiny": ("anisora", "tiny"),
        "phr00t-tiny": ("phr00t", "tiny"),
    }


def test_everything_that_a_ladder_needs_is_there_when_the_file_is_read() -> None:
    for traced in TRACED.values():
        assert set(ACTIVATION_NAMES) <= set(traced.activations)
        for storage in traced.parts:
            assert [rung.placement for rung in traced.ladder(storage).rungs] == [placement.name for placement in PLACEMENTS]


@pytest.mark.parametrize("storage", ["fp8", "bf16"])
def test_ladders_of_both_models_are_given_when_the_baseline_is_asked(storage: str) -> None:
    assert sorted(ladder.model for ladder in baseline_ladders(storage)) == sorted(MODELS)


@pytest.mark.parametrize("size", [(480, 832), (720, 1280)])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_rung_fits_an_a10g_when_a_clip_of_81_frames_is_asked(model: str, size: tuple[int, int]) -> None:
    (ladder,) = [ladder for ladder in baseline_ladders() if ladder.model == model]
    for mode in MODELS[model].modes:
        shape = Shape(width=size[0], height=size[1], num_frames=81, mode=mode)
        assert choose(ladder, GPUS[BASELINE], shape) is not None, [peak_bytes(rung, shape) for rung in ladder.rungs]


def test_weights_are_those_of_the_facts_when_they_are_stored_as_fp8() -> None:
    # facts/models.md, section 4: 13.53 GiB for an expert, 16.37 for VACE.
    for model, expected_gib in (("anisora", 13.53), ("phr00t", 16.37)):
        (transformer,) = [part for part in TRACED[model].parts["fp8"].parts if part.name == "transformer"]
        assert transformer.total_bytes / 1024**3 == pytest.approx(expected_gib, rel=0.01)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_each_rung_needs_no_more_than_the_one_above_when_a_clip_is_large(model: str) -> None:
    shape = Shape(width=720, height=1280, num_frames=81, mode="i2v")
    peaks = [peak_bytes(rung, shape) for rung in TRACED[model].ladder("fp8").rungs]
    assert peaks == sorted(peaks, reverse=True)
