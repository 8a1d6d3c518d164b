"""Requests for image models: the check and the schema say the same, within the contract's limits."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.rules.catalogue import FIELDS
from runtime.rules.image_request import IMAGE_FIELDS, check_image_request, image_request_schema
from runtime.rules.request import InvalidRequestError
from tests.unit.rules.json_schema import accepts

GOOD = {"model": "pony", "prompt": "a lake"}
PICTURE = "data:image/png;base64,AAAA"


def _refused(raw: dict[str, Any]) -> list[str]:
    try:
        check_image_request(raw)
    except InvalidRequestError as error:
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({}, []),
        ({"model": "flux", "type": "image", "mode": "txt2img", "sampler": "euler", "clip_skip": 4, "output_format": "png"}, []),
        ({"mode": "img2img", "reference_image": PICTURE, "denoising_strength": 0}, []),
        ({"width": 256, "height": 2048, "seed": 2147483647, "guidance_scale": 20, "reference_strength": 1}, []),
        # Not the contract's business: the server of the images may have more fields.
        ({"steps": 400, "cfg_scale": 7, "num_frames": -1, "loras": [{"name": "x"}]}, []),
        # As absent.
        ({"type": None, "mode": None, "seed": None, "negative_prompt": None, "reference_image": None, "clip_skip": None}, []),
        ({"mode": "img2img", "reference_image": None}, ["reference_image"]),
        ({"model": "anisora"}, ["model"]),
        ({"prompt": ""}, ["prompt"]),
        ({"prompt": "a\u0007"}, ["prompt"]),
        ({"negative_prompt": "x" * 1001}, ["negative_prompt"]),
        ({"width": 255, "height": 2049}, ["width", "height"]),
        ({"type": "video", "mode": "i2v"}, ["type", "mode"]),
        ({"seed": 2147483648}, ["seed"]),
        ({"seed": True}, ["seed"]),
        ({"guidance_scale": 20.5}, ["guidance_scale"]),
        ({"denoising_strength": 1.01, "reference_strength": -0.1}, ["reference_strength", "denoising_strength"]),
        ({"clip_skip": 0}, ["clip_skip"]),
        ({"sampler": 5}, ["sampler"]),
        ({"output_format": "bmp"}, ["output_format"]),
        ({"mode": "img2img"}, ["reference_image"]),
        ({"reference_image": {"key": "inputs/" + "0" * 64}}, ["reference_image"]),
        ({"reference_image": "data:text/html;base64,AAAA"}, ["reference_image"]),
    ],
)
def test_fields_are_named_and_the_schema_agrees_when_a_request_is_checked(change: dict[str, Any], fields: list[str]) -> None:
    raw = {**GOOD, **change}
    assert _refused(raw) == fields
    assert accepts(image_request_schema(), raw) is (not fields)


def test_prompt_is_required_when_it_is_not_there() -> None:
    assert _refused({"model": "pony"}) == ["prompt"]
    assert _refused({"model": "pony", "prompt": None}) == ["prompt"]


def test_limits_are_those_of_videos_when_a_field_is_shared() -> None:
    videos = {rule.name: rule for rule in FIELDS}
    shared = [rule for rule in IMAGE_FIELDS if rule.name in videos and rule.name not in ("model", "type", "mode", "output_format")]
    assert len(shared) == 8
    assert all(
        (rule.minimum, rule.maximum, rule.kind) == (videos[rule.name].minimum, videos[rule.name].maximum, videos[rule.name].kind)
        for rule in shared
    )
