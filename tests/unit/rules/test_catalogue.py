"""The catalogue is consistent in itself and with the contract's tables."""

from __future__ import annotations

import pytest
from warmlane.generation.v1 import generation_pb2

from runtime.rules.catalogue import FIELDS, KEYFRAME_FIELDS, MODELS, MODES, SINGLE_IMAGE_FIELDS, Kind, ModelRules
from runtime.rules.forms import FormControl
from tests.unit.rules.bodies import body, check, refused

_MODELS = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def test_the_fields_are_those_of_the_message_when_the_type_is_left_out() -> None:
    message = [field.name for field in generation_pb2.GenerationRequest.DESCRIPTOR.fields]
    assert [rule.name for rule in FIELDS if rule.name != "type"] == message


def test_the_parts_of_a_keyframe_are_those_of_its_message() -> None:
    assert [rule.name for rule in KEYFRAME_FIELDS] == [field.name for field in generation_pb2.ArbitraryFrame.DESCRIPTOR.fields]


def test_no_name_means_two_fields_when_aliases_are_counted() -> None:
    names = [name for rule in FIELDS for name in (rule.name, *rule.aliases)]
    assert len(names) == len(set(names))


def test_the_single_images_are_the_three_of_the_contract() -> None:
    assert SINGLE_IMAGE_FIELDS == ("reference_image", "first_frame_image", "last_frame_image")


@_MODELS
def test_the_modes_exist_and_hold_the_default_when_a_model_lists_them(model: ModelRules) -> None:
    assert set(model.modes) <= set(MODES)
    assert model.default_mode in model.modes


@_MODELS
def test_every_named_parameter_is_a_field_when_a_model_fixes_or_shows_it(model: ModelRules) -> None:
    names = {rule.name for rule in FIELDS}
    assert set(model.fixed_parameters) | set(model.form_controls) | set(model.stand_ins) | set(model.stand_ins.values()) <= names


@_MODELS
def test_a_form_starts_with_the_servers_default_when_it_shows_a_parameter(model: ModelRules) -> None:
    request = check(model.id)
    assert {name: control.default for name, control in model.form_controls.items()} == {
        name: getattr(request, name) for name in model.form_controls
    }


@_MODELS
def test_whatever_a_form_offers_is_accepted_when_it_is_sent(model: ModelRules) -> None:
    for name, control in model.form_controls.items():
        for value in (*control.options, control.minimum, control.maximum):
            if value is not None:
                assert refused(body(model.id, **{name: value})) == []


@_MODELS
def test_a_form_offers_only_what_the_model_uses(model: ModelRules) -> None:
    assert all(rule.is_used_by(model.id) for rule in FIELDS if rule.name in model.form_controls)


@_MODELS
def test_the_frames_slider_is_the_frontends_and_not_the_servers_limit(model: ModelRules) -> None:
    assert model.form_controls["num_frames"].to_json() == {"default": 81, "min": 49, "max": 161, "step": 4}
    assert refused(body(model.id, num_frames=241)) == []


def test_fixed_parameters_are_those_of_the_contract() -> None:
    assert {
        model.id: {name: (fixed.value, fixed.locked) for name, fixed in model.fixed_parameters.items()} for model in MODELS.values()
    } == {
        "anisora": {"steps": (8, True)},
        "phr00t": {"steps": (4, True), "cfg_scale": (1.0, True)},
    }


def test_a_list_control_is_spelled_with_options_when_it_has_them() -> None:
    assert FormControl(default=16, options=(8, 16, 24)).to_json() == {"default": 16, "options": [8, 16, 24]}


def test_every_number_has_both_limits_or_none() -> None:
    numbers = [rule for rule in (*FIELDS, *KEYFRAME_FIELDS) if rule.kind in (Kind.INTEGER, Kind.NUMBER)]
    assert all((rule.minimum is None) == (rule.maximum is None) for rule in numbers)
