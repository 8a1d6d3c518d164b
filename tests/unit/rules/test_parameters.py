"""Requests as JSON values."""

from __future__ import annotations

import json

import pytest

from runtime.rules.parameters import from_parameters, to_parameters
from runtime.rules.request import InvalidRequestError
from tests.unit.rules.bodies import IMAGE, check


def test_absent_images_are_left_out_when_the_mode_uses_none() -> None:
    parameters = to_parameters(check())
    assert not {"reference_image", "first_frame_image", "last_frame_image", "arbitrary_frames", "type"} & set(parameters)


def test_every_value_survives_json_when_the_request_has_keyframes() -> None:
    request = check(mode="arbitrary_frame", arbitrary_frames=[{"frame_index": 8, "image": IMAGE, "strength": 0.5}])
    parameters = json.loads(json.dumps(to_parameters(request)))
    assert parameters["arbitrary_frames"] == [{"frame_index": 8, "image": IMAGE, "strength": 0.5}]
    assert from_parameters(parameters) == request


def test_stored_parameters_are_refused_when_they_break_the_rules() -> None:
    with pytest.raises(InvalidRequestError, match="steps"):
        from_parameters({**to_parameters(check()), "steps": 9})
