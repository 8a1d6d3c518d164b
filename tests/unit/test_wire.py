"""Requests on the wire."""

from __future__ import annotations

import pytest
from warmlane.generation.v1 import generation_pb2

from runtime.rules.check import check_request
from runtime.rules.request import InvalidRequestError
from runtime.wire import message_to_raw, request_to_message

_IMAGE = {"key": "inputs/" + "0a" * 32}


def test_fields_are_absent_when_the_message_does_not_set_them() -> None:
    assert message_to_raw(generation_pb2.GenerationRequest(model="anisora", prompt="x")) == {"model": "anisora", "prompt": "x"}


def test_fields_are_told_when_the_message_sets_them_to_their_zero() -> None:
    message = generation_pb2.GenerationRequest(model="anisora", prompt="x", seed=0, motion_score=0.0, negative_prompt="")
    assert message_to_raw(message) == {"model": "anisora", "prompt": "x", "seed": 0, "motion_score": 0.0, "negative_prompt": ""}


def test_position_0_is_told_when_a_keyframe_stands_there() -> None:
    frames = [generation_pb2.ArbitraryFrame(frame_index=0, image=generation_pb2.InputImage(**_IMAGE))]
    message = generation_pb2.GenerationRequest(model="anisora", prompt="x", mode="arbitrary_frame", arbitrary_frames=frames)
    assert message_to_raw(message)["arbitrary_frames"] == [{"frame_index": 0, "image": _IMAGE}]
    assert check_request(message_to_raw(message)).arbitrary_frames[0].strength == 0.85


def test_every_field_is_set_when_a_request_becomes_a_message() -> None:
    request = check_request({"model": "phr00t", "prompt": "x", "mode": "i2v", "reference_image": _IMAGE})
    message = request_to_message(request)
    unset = {field.name for field in message.DESCRIPTOR.fields} - {field.name for field, _ in message.ListFields()}
    assert unset == {"first_frame_image", "last_frame_image", "arbitrary_frames"}
    assert check_request(message_to_raw(message)) == request


def test_the_missing_parts_are_named_when_the_message_is_empty() -> None:
    message = generation_pb2.GenerationRequest(arbitrary_frames=[generation_pb2.ArbitraryFrame()])
    with pytest.raises(InvalidRequestError) as refusal:
        check_request(message_to_raw(message))
    assert [violation.field for violation in refusal.value.violations] == ["model", "prompt", "arbitrary_frames[0].image"]


def test_a_number_that_is_not_finite_is_refused_when_it_comes_by_wire() -> None:
    message = generation_pb2.GenerationRequest(model="anisora", prompt="x", cfg_scale=float("nan"))
    with pytest.raises(InvalidRequestError, match="cfg_scale: must be a finite number"):
        check_request(message_to_raw(message))
