"""What /openapi.json says of a request's body is what the bridge does with it: the served schema against the check."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from http_bridge.errors import HttpError
from http_bridge.intake import read_draft
from runtime.images import InvalidImageError, parse_data_uri
from runtime.rules.catalogue import FIELDS, FieldRule, Kind
from tests.harness.bridge import bridge_settings, data_uri, png

_ADDRESS = "127.0.0.1:1"
_OPENAPI: dict[str, Any] = create_app(bridge_settings(_ADDRESS), AdmissionClient(_ADDRESS), MemoryStore()).openapi()
_SCHEMA = _OPENAPI["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
_VALIDATOR = jsonschema_rs.validator_for(_SCHEMA)
_PICTURE = data_uri(png())
_NAMES = sorted({name for rule in FIELDS for name in (rule.name, *rule.aliases)} - {"arbitrary_frames"})


def _is_taken(body: object) -> bool:
    """What the bridge makes of the body, but for the pixels of its pictures. Whatever is no 422 is an error of the test."""
    try:
        draft = read_draft(json.dumps(body).encode())
        for picture in draft.pictures.values():
            parse_data_uri(str(picture))
    except InvalidImageError:
        return False
    except HttpError as error:
        if error.code != "validation_error":
            raise
        return False
    return True


def _body(**fields: object) -> dict[str, object]:
    return {"model": "anisora", "prompt": "a lake", **fields}


# The table of the contract, once more and independent of the rule set: field, values that are right, values that are not.
_TABLE: list[tuple[str, str, list[object], list[object]]] = [
    ("model", "anisora", ["anisora"], ["", "wan", 1, ["anisora"], None]),
    ("type", "anisora", ["video", None], ["image", "clip", 1]),
    ("mode", "anisora", ["t2v", None], ["txt2img", "img2img", "", 1]),
    ("mode", "phr00t", ["t2v"], ["arbitrary_frame"]),
    ("prompt", "anisora", ["x", "x" * 2000, "\U0001f3d4" * 2000], ["", " ", "\u3000", "x" * 2001, "\U0001f3d4" * 2001, 1, None]),
    ("negative_prompt", "anisora", ["", " ", "x" * 1000, None], ["x" * 1001, 1]),
    ("width", "anisora", [256, 2048, 720.0, None], [255, 2049, 300.5, "300", True]),
    ("height", "anisora", [256, 2048, None], [255, 2049, -1]),
    ("seed", "anisora", [-1, 0, 2_147_483_647, None], [-2, 2_147_483_648, 0.5, "1"]),
    ("output_format", "anisora", ["mp4", "webm", None], ["png", "jpeg", "gif", "MP4"]),
    ("num_frames", "anisora", [1, 81, 241, None], [0, 242, "81"]),
    ("fps", "anisora", [1, 8, 16, 24, 60, None], [0, 61]),
    ("steps", "anisora", [8, 8.0, None], [4, 7, 9, "8"]),
    ("steps", "phr00t", [4, None], [8, 3, 5, True]),
    ("cfg_scale", "phr00t", [1.0, 1, None], [1.1, 0, 2, "1"]),
    ("cfg", "phr00t", [1.0, None], [1.1, 7]),
    ("guidance_scale", "phr00t", [1.0, None], [0.9, 5, 21]),
    ("guidance_scale", "anisora", [0, 1.0, 20, None], [-0.1, 20.1]),
    ("motion_score", "anisora", [0, 3.0, 5, None], [-0.1, 5.1]),
    ("lighting_variant", "phr00t", ["high_noise", "low_noise", None], ["noise", 1]),
    ("reference_strength", "anisora", [0, 0.85, 1, None], [-0.1, 1.1]),
    ("denoising_strength", "anisora", [0, 0.7, 1, None], [-0.1, 1.1]),
    ("first_strength", "anisora", [0.5, 1, None], [0.4, 1.1]),
    ("last_strength", "anisora", [0.5, 1, None], [0.4, 1.1]),
    ("reference_image", "anisora", [_PICTURE, None], ["", "x", "data:image/gif;base64,AAAA", {"key": "inputs/" + "0" * 64}, 1]),
    ("first_frame_image", "anisora", [None], [_PICTURE, "x", 1]),
    ("arbitrary_frames", "anisora", [None, [], [{"frame_index": 0, "image": _PICTURE}]], ["x", {}, [1], [{}], [{"frame_index": 0}]]),
    ("arbitrary_frames", "phr00t", [None, [{"frame_index": 0, "image": _PICTURE}]], [[{"image": _PICTURE}], ["x"]]),
    ("unknown", "anisora", [None, 1, {"x": []}], []),
]


@pytest.mark.parametrize(("field", "model", "right", "wrong"), _TABLE, ids=[f"{row[0]}-{row[1]}" for row in _TABLE])
def test_schema_and_bridge_follow_the_contract_when_one_field_is_sent(
    field: str, model: str, right: list[object], wrong: list[object]
) -> None:
    for values, expected in ((right, True), (wrong, False)):
        for value in values:
            body = _body(**{"model": model, field: value})
            assert _is_taken(body) is expected, body
            assert _VALIDATOR.is_valid(body) is expected, body


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"frame_index": 0, "strength": 0.1}, True),
        ({"frame_index": 160, "strength": 1}, True),
        ({"frame_index": 0, "strength": None}, True),
        ({"frame_index": 161}, False),
        ({"frame_index": -1}, False),
        ({"frame_index": None}, False),
        ({"frame_index": 0, "strength": 0.09}, False),
        ({"frame_index": 0, "image": None}, False),
    ],
)
def test_schema_and_bridge_follow_the_contract_when_a_keyframe_is_sent(frame: dict[str, object], expected: bool) -> None:
    body = _body(mode="arbitrary_frame", num_frames=241, arbitrary_frames=[{"image": _PICTURE, **frame}])
    assert (_is_taken(body), _VALIDATOR.is_valid(body)) == (expected, expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mode": "t2v", "reference_image": "no picture"}, True),
        ({"mode": "t2v", "reference_image": 1}, False),
        ({"mode": "i2v", "reference_image": _PICTURE}, True),
        ({"mode": "i2v", "reference_image": "no picture"}, False),
        ({"mode": "i2v", "reference_image": None}, False),
        ({"mode": None, "reference_image": _PICTURE}, True),
        ({"mode": None, "reference_image": ""}, False),
        ({"mode": None, "first_frame_image": _PICTURE, "last_frame_image": None}, False),
        ({"mode": "first_last_frame", "first_frame_image": _PICTURE, "last_frame_image": _PICTURE, "reference_image": "x"}, True),
        ({"mode": "arbitrary_frame", "arbitrary_frames": []}, False),
        ({"mode": "arbitrary_frame", "arbitrary_frames": [{"frame_index": 0, "image": "x"}]}, False),
        ({"mode": "t2v", "arbitrary_frames": [{"frame_index": 0, "image": "x"}]}, True),
    ],
)
def test_schema_and_bridge_ask_for_pictures_only_where_the_mode_uses_them(fields: dict[str, object], expected: bool) -> None:
    body = _body(**fields)
    assert (_is_taken(body), _VALIDATOR.is_valid(body)) == (expected, expected)


@pytest.mark.parametrize("body", [None, [], "x", 1, {}, {"model": "anisora"}, {"prompt": "x"}])
def test_schema_and_bridge_refuse_when_the_body_is_no_request(body: object) -> None:
    assert (_is_taken(body), _VALIDATOR.is_valid(body)) == (False, False)


_LIMITS = [part for rule in FIELDS for part in (rule.minimum, rule.maximum) if part is not None]
_NEAR_LIMITS = st.sampled_from(
    [near for limit in _LIMITS for near in (limit - 1, limit - 0.5, limit, float(limit), limit + 0.5, limit + 1)]
)
_MODES = ["t2v", "i2v", "first_last_frame", "arbitrary_frame", "txt2img", None]
_WORDS = st.sampled_from([option for rule in FIELDS for option in rule.options] + ["", " ", "\x00", "\u2028"])
# Text without surrogates, of which a schema cannot speak.
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_PICTURES = st.sampled_from([_PICTURE, _PICTURE, _PICTURE, None, "x", "data:image/webp;base64,AAAA"])
_WHOLE = st.integers(-(2**40), 2**40)
_VALUES = st.one_of(st.none(), st.booleans(), _NEAR_LIMITS, _WORDS, _TEXTS, _PICTURES, _WHOLE, st.just([]), st.just({}))
# One keyframe, so that no two are at one place; below the 241 frames that the body asks for unless it says otherwise.
_KEYFRAME = st.fixed_dictionaries(
    {}, optional={"frame_index": st.sampled_from([0, 8, 160, 161, None, "0"]), "image": _PICTURES, "strength": _NEAR_LIMITS | st.none()}
)


def _good(rule: FieldRule) -> st.SearchStrategy[object]:
    low, high = rule.minimum or 0, rule.maximum or 0
    return st.integers(int(low), int(high)) if rule.kind is Kind.INTEGER else st.floats(low, high)


_GOOD = {
    rule.name: _good(rule)
    for rule in FIELDS
    if rule.kind in (Kind.INTEGER, Kind.NUMBER) and rule.minimum is not None and rule.name != "num_frames"
}
_ASKED = {"mode": st.sampled_from(_MODES), "type": st.sampled_from(["video", "image", None])}
_SHOWN = {
    **dict.fromkeys(("reference_image", "first_frame_image", "last_frame_image"), _PICTURES),
    "arbitrary_frames": st.lists(_KEYFRAME, max_size=1),
}


@st.composite
def _bodies(draw: st.DrawFn) -> dict[str, object]:
    """Bodies that are nearly right: good values for some fields, anything for up to three."""
    model = draw(st.sampled_from(["anisora", "phr00t"]))
    body: dict[str, object] = {"model": model, "prompt": draw(_TEXTS | st.just("a lake")), "num_frames": 241}
    body |= draw(st.fixed_dictionaries({}, optional=_GOOD))
    if model == "phr00t" and draw(st.booleans()):
        body.pop("guidance_scale", None)
    body |= draw(st.fixed_dictionaries({}, optional=_ASKED)) | draw(st.fixed_dictionaries({}, optional=_SHOWN))
    names = draw(st.lists(st.sampled_from([*_NAMES, "unknown"]), max_size=3))
    return body | {name: draw(_VALUES) for name in names if name != "num_frames"}


def _agree(body: dict[str, object]) -> None:
    assert _VALIDATOR.is_valid(body) is _is_taken(body), body


@settings(max_examples=150, deadline=None)
@given(_bodies())
def test_schema_and_bridge_agree_when_a_body_is_nearly_right(body: dict[str, object]) -> None:
    _agree(body)


@pytest.mark.long
@settings(max_examples=10_000, deadline=None)
@given(_bodies())
def test_schema_and_bridge_agree_when_very_many_bodies_are_nearly_right(body: dict[str, object]) -> None:
    _agree(body)
