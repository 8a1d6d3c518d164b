"""Every kind of difference between a settings file and the rules is named, at its place, with what it should be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line.settings.comparison import compare
from command_line.settings.differences import Difference, Severity
from runtime.rules.settings_file import settings_document

_OURS: dict[str, Any] = json.loads(json.dumps(settings_document()))
_FRAMES = "models.anisora.parameters.num_frames"
_STEPS = "models.anisora.fixed_parameters.steps"
_CFG = "models.phr00t.fixed_parameters.cfg_scale"


def _changed(path: str, value: Any) -> dict[str, Any]:
    """Our file with another value at the path; `...` leaves it out."""
    document = copy.deepcopy(_OURS)
    *parents, last = path.split(".")
    node = document
    for name in parents:
        node = node[name]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return document


def _errors(document: Any) -> list[Difference]:
    return [one for one in compare(document) if one.severity is Severity.ERROR]


def test_file_that_is_made_from_the_rules_has_no_difference() -> None:
    assert compare(_OURS) == []


# Place and value of a change; the difference's kind, place, and what is expected there.
_WRONG: list[tuple[str, Any, str, str | None, Any]] = [
    ("models.phr00t", ..., "missing_model", "models.phr00t", None),
    (_STEPS, ..., "missing_fixed_parameter", _STEPS, {"value": 8, "locked": True}),
    ("models.phr00t.fixed_parameters", ..., "missing_fixed_parameter", _CFG, {"value": 1.0, "locked": True}),
    (f"{_STEPS}.value", 9, "wrong_value", f"{_STEPS}.value", 8),
    (f"{_STEPS}.value", "8", "wrong_type", f"{_STEPS}.value", 8),
    (f"{_STEPS}.value", True, "wrong_type", f"{_STEPS}.value", 8),
    (f"{_STEPS}.value", ..., "missing_value", f"{_STEPS}.value", 8),
    (f"{_CFG}.value", 7.5, "wrong_value", f"{_CFG}.value", 1.0),
    (f"{_STEPS}.locked", False, "unlocked", f"{_STEPS}.locked", True),
    (f"{_STEPS}.locked", ..., "unlocked", f"{_STEPS}.locked", True),
    (f"{_STEPS}.locked", "yes", "wrong_type", f"{_STEPS}.locked", True),
    (_STEPS, 8, "wrong_type", _STEPS, {"value": 8, "locked": True}),
    ("models.anisora.fixed_parameters.sampler", {"value": 1, "locked": True}, "unknown_parameter", None, None),
    (
        "models.anisora.fixed_parameters.fps",
        {"value": 90, "locked": True},
        "value_refused",
        "models.anisora.fixed_parameters.fps.value",
        None,
    ),
    ("models.anisora.parameters.steps", {"default": 8}, "offers_fixed_parameter", None, None),
    ("models.phr00t.parameters.guidance_scale", {"default": 1.0}, "offers_fixed_parameter", None, None),
    ("models.anisora.parameters.lighting_variant", {"default": "low_noise"}, "no_effect", None, None),
    ("models.anisora.parameters.loras", {"default": 1}, "unknown_parameter", None, None),
    ("models.anisora.parameters.motion_score", ..., "missing_parameter", None, {"default": 3.0, "min": 0, "max": 5, "step": 0.1}),
    ("models.anisora.parameters", ["fps"], "wrong_type", None, None),
    (f"{_FRAMES}.default", 300, "default_refused", f"{_FRAMES}.default", 81),
    (f"{_FRAMES}.default", 97, "other_default", f"{_FRAMES}.default", 81),
    (f"{_FRAMES}.default", "81", "default_refused", f"{_FRAMES}.default", 81),
    (f"{_FRAMES}.default", ..., "missing_default", f"{_FRAMES}.default", 81),
    (f"{_FRAMES}.max", 77, "default_not_offered", f"{_FRAMES}.default", None),
    (f"{_FRAMES}.max", 242, "wider_than_server", f"{_FRAMES}.max", 241),
    (f"{_FRAMES}.min", 0, "wider_than_server", f"{_FRAMES}.min", 1),
    (f"{_FRAMES}.min", "49", "wrong_type", f"{_FRAMES}.min", 49),
    (f"{_FRAMES}.min", ..., "missing_min", f"{_FRAMES}.min", 49),
    (f"{_FRAMES}.max", 10, "min_over_max", f"{_FRAMES}.min", None),
    (f"{_FRAMES}.step", 3, "step_off_grid", f"{_FRAMES}.step", 4),
    (f"{_FRAMES}.step", 0, "wrong_type", f"{_FRAMES}.step", 4),
    (f"{_FRAMES}.step", ..., "missing_step", f"{_FRAMES}.step", 4),
    (f"{_FRAMES}.min", 51, "step_off_grid", f"{_FRAMES}.step", 4),
    (_FRAMES, 81, "wrong_type", _FRAMES, {"default": 81, "min": 49, "max": 161, "step": 4}),
    ("models.phr00t.parameters.fps.options", [8, 16, 120], "option_refused", "models.phr00t.parameters.fps.options[2]", None),
    ("models.phr00t.parameters.fps.options", ["16"], "option_refused", "models.phr00t.parameters.fps.options[0]", None),
    ("models.phr00t.parameters.fps.options", [], "no_options", "models.phr00t.parameters.fps.options", [8, 16, 24]),
    ("models.phr00t.parameters.fps.options", "16", "wrong_type", "models.phr00t.parameters.fps.options", [8, 16, 24]),
    ("models.phr00t.parameters.fps.options", ..., "missing_options", "models.phr00t.parameters.fps.options", [8, 16, 24]),
    ("models.anisora.parameters.negative_prompt.max_length", 5000, "wider_than_server", None, 1000),
    ("models.anisora.parameters.negative_prompt.max_length", ..., "missing_max_length", None, 1000),
    ("models.anisora.parameters.negative_prompt.max_length", -1, "wrong_type", None, 1000),
    ("models.anisora.type", "image", "wrong_value", "models.anisora.type", "video"),
    ("models.phr00t.modes", ["t2v", "arbitrary_frame"], "option_refused", "models.phr00t.modes", ["t2v", "i2v", "first_last_frame"]),
    ("models.phr00t.modes", "t2v", "wrong_type", "models.phr00t.modes", ["t2v", "i2v", "first_last_frame"]),
    ("models.phr00t.default_mode", "dream", "default_refused", "models.phr00t.default_mode", "t2v"),
    ("models.wan", {"parameters": {}}, "unknown_model", "models.wan", ["anisora", "phr00t"]),
]


@pytest.mark.parametrize(
    ("path", "value", "kind", "place", "expected"), _WRONG, ids=[f"{row[2]}-{number}" for number, row in enumerate(_WRONG)]
)
def test_error_names_place_and_right_value_when_the_file_is_wrong(
    path: str, value: Any, kind: str, place: str | None, expected: Any
) -> None:
    found = [one for one in _errors(_changed(path, value)) if one.kind == kind and one.path == (place or path)]
    assert [one.expected for one in found] == [expected]
    assert found[0].message


_NARROWER: list[tuple[str, Any, str]] = [
    (f"{_FRAMES}.max", 241, "wider_than_ours"),
    (f"{_FRAMES}.max", 97, "narrower_than_ours"),
    (f"{_FRAMES}.step", 8, "other_step"),
    ("models.anisora.parameters.motion_score.step", 0.25, "other_step"),
    ("models.anisora.parameters.fps.options", [16], "option_left_out"),
    ("models.anisora.parameters.fps.options", [8, 12, 16, 24], "option_not_ours"),
    ("models.anisora.parameters.fps", {"default": 16, "min": 8, "max": 24, "step": 1}, "slider_for_list"),
    ("models.anisora.parameters.width", ..., "missing_parameter"),
    ("models.anisora.parameters.negative_prompt.max_length", 500, "narrower_than_server"),
    ("models.anisora.parameters.prompt", {"default": "x"}, "not_compared"),
    ("models.anisora.modes", ["t2v", "i2v"], "option_left_out"),
    ("models.anisora.default_mode", "i2v", "other_default"),
    ("models.anisora.fixed_parameters.guidance_scale", {"value": 1.0, "locked": True}, "not_fixed_by_server"),
    ("models.flux", {"parameters": {"steps": {"default": 20}}}, "not_compared"),
]


@pytest.mark.parametrize(("path", "value", "kind"), _NARROWER, ids=[f"{row[2]}-{number}" for number, row in enumerate(_NARROWER)])
def test_note_and_no_error_is_given_when_the_server_takes_all_that_is_offered(path: str, value: Any, kind: str) -> None:
    document = _changed(path, value)
    assert _errors(document) == []
    assert kind in {one.kind for one in compare(document)}


def test_alias_is_the_parameter_when_it_stands_alone() -> None:
    document = _changed(_CFG, ...)
    document["models"]["phr00t"]["fixed_parameters"]["cfg"] = {"value": 1.0, "locked": True}
    assert [(one.kind, one.severity) for one in compare(document)] == [("alias", Severity.NOTE)]
    document["models"]["phr00t"]["fixed_parameters"]["cfg_scale"] = {"value": 1.0, "locked": True}
    assert [one.kind for one in _errors(document)] == ["parameter_twice"]


def test_guidance_stands_for_cfg_as_it_does_in_a_request() -> None:
    document = _changed(_CFG, ...)
    document["models"]["phr00t"]["fixed_parameters"]["guidance_scale"] = {"value": 3.0, "locked": True}
    assert [(one.kind, one.expected) for one in _errors(document)] == [("wrong_value", 1.0)]


_SHAPES: list[Callable[[dict[str, Any]], Any]] = [
    lambda models: models,
    lambda models: {"video": models},
    lambda models: {"settings": {"video_models": [{"id": name, **one} for name, one in models.items()]}},
    lambda models: [{"id": name, **one} for name, one in models.items()],
    lambda models: {"models": [{**one, "model": name, "name": "shown"} for name, one in models.items()]},
    lambda models: {
        name: {**one, "parameters": [{"name": key, **entry} for key, entry in one["parameters"].items()]} for name, one in models.items()
    },
]


@pytest.mark.parametrize("shape", _SHAPES)
def test_models_are_found_when_the_file_wraps_them_in_another_way(shape: Callable[[dict[str, Any]], Any]) -> None:
    models = copy.deepcopy(_OURS["models"])
    assert compare(shape(models)) == []
    models["anisora"]["parameters"]["fps"]["default"] = 24
    assert [one.kind for one in compare(shape(models))] == ["other_default"]


def test_model_that_stands_twice_is_an_error() -> None:
    document = {"a": _OURS["models"], "b": {"anisora": _OURS["models"]["anisora"]}}
    assert [(one.kind, one.path) for one in compare(document)] == [("model_twice", "b.anisora")]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=True) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["models", "anisora", "id", "steps", "fps", "value", "locked", "default", "min", "max", "options", "\ud800", ""]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_JSON)
def test_comparison_ends_with_differences_whatever_json_it_is_given(document: Any) -> None:
    differences = compare(document)
    assert any(one.kind == "missing_model" for one in differences) or document
    for one in differences:
        (one.path + one.message).encode()


@given(st.data())
def test_any_change_of_a_parameter_is_noticed(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(["anisora", "phr00t"]))
    group = data.draw(st.sampled_from(["fixed_parameters", "parameters"]))
    name = data.draw(st.sampled_from(sorted(_OURS["models"][model][group])))
    old = _OURS["models"][model][group][name]
    part = data.draw(st.sampled_from(sorted(old)))
    new = data.draw(_JSON.filter(lambda value: value != old[part] or isinstance(value, bool) is not isinstance(old[part], bool)))
    path = f"models.{model}.{group}.{name}"
    assert any(one.path.startswith(path) for one in compare(_changed(f"{path}.{part}", new)))
