"""The schema says what the check does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.rules.catalogue import FIELDS, MODELS
from runtime.rules.schema import parameters_schema
from tests.unit.rules.bodies import IMAGE, body, check
from tests.unit.rules.json_schema import accepts


def _properties(model: str) -> Any:
    return parameters_schema(model)["properties"]


@pytest.mark.parametrize("model", MODELS)
def test_the_schema_is_json_and_names_every_field_and_alias(model: str) -> None:
    assert set(json.loads(json.dumps(_properties(model)))) == {name for rule in FIELDS for name in (rule.name, *rule.aliases)}


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_are_those_that_the_check_fills_in(model: str) -> None:
    request = check(model)
    told = {name: schema["default"] for name, schema in _properties(model).items() if "default" in schema and name != "cfg"}
    assert told == {name: getattr(request, name) for name in told}
    assert {"mode", "steps", "width", "seed", "fps"} <= set(told)


def test_fixed_parameters_are_constants() -> None:
    assert _properties("anisora")["steps"]["const"] == 8
    assert _properties("phr00t")["steps"]["const"] == 4
    assert _properties("phr00t")["cfg_scale"]["const"] == 1.0
    assert _properties("phr00t")["cfg"]["const"] == 1.0


def test_a_field_says_so_when_the_model_does_not_use_it() -> None:
    assert _properties("phr00t")["motion_score"]["description"].endswith("Not used by phr00t.")


@pytest.mark.parametrize(
    ("model", "fields", "accepted"),
    [
        ("anisora", {"mode": "i2v"}, False),
        ("anisora", {"mode": "i2v", "reference_image": IMAGE}, True),
        ("anisora", {"mode": "i2v", "reference_image": "data:image/webp;base64,AAAA"}, True),
        ("anisora", {"mode": "i2v", "reference_image": "data:image/gif;base64,AAAA"}, False),
        ("anisora", {"mode": "arbitrary_frame", "arbitrary_frames": []}, False),
        ("anisora", {"mode": "arbitrary_frame", "arbitrary_frames": [{"frame_index": 0, "image": IMAGE}]}, True),
        ("phr00t", {"guidance_scale": 2}, False),
        ("phr00t", {"guidance_scale": 2, "cfg": 1.0}, True),
        ("anisora", {"guidance_scale": 2}, True),
        ("anisora", {"anything": "else"}, True),
    ],
)
def test_the_schema_knows_what_fields_mean_together(model: str, fields: dict[str, object], accepted: bool) -> None:
    assert accepts(parameters_schema(model), body(model, **fields)) is accepted


def test_an_unknown_model_has_no_schema() -> None:
    with pytest.raises(KeyError):
        parameters_schema("pony")
