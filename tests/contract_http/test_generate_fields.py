"""POST /generate, field by field: a value at a limit is accepted, one beyond is refused by name; both prefixes, both credentials."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from tests.contract_http.doors import SMALL, Door, assert_envelope, wrong_fields
from tests.contract_http.fields import DEFAULTS, PICTURE, ROWS
from tests.harness.bridge import data_uri, png

_STEPS = {"anisora": 8, "phr00t": 4}
_MAX_IMAGE_BYTES = 12 * 1024 * 1024


def _cases(kind: str) -> list[Any]:
    return [
        pytest.param({**SMALL, "model": model, **row.others, row.name: value}, row.named or row.name, id=f"{model} {row.name} {number}")
        for row in ROWS
        for model in row.models
        for number, value in enumerate(getattr(row, kind))
    ]


@pytest.mark.parametrize(("body", "field"), _cases("good"))
def test_value_is_accepted_when_it_is_within_the_limits(both: list[Door], body: dict[str, Any], field: str) -> None:
    for door in both:
        door.accepted(**body)


@pytest.mark.parametrize(("body", "field"), _cases("bad"))
def test_field_is_named_when_its_value_is_beyond_the_limits(both: list[Door], body: dict[str, Any], field: str) -> None:
    for door in both:
        assert wrong_fields(door.http.post("/generate", json=body)) == {field}, door.name


@pytest.mark.parametrize("model", _STEPS)
def test_defaults_are_those_of_the_page_when_nothing_is_sent(door: Door, model: str) -> None:
    task_id = door.done(**dict.fromkeys(("width", "height", "num_frames")), model=model)
    item = door.item(task_id)
    seed = item["seed"]
    # AniSora makes clips of 8k+1 frames, Phr00t of 4k+1: 81 is both.
    assert item["parameters"] == {**DEFAULTS, "steps": _STEPS[model], "seed": seed}
    assert (item["negative_prompt"], item["mode"], item["type"]) == ("", "t2v", "video")
    assert 0 <= seed <= 2_147_483_647


@pytest.mark.parametrize(
    ("model", "sent", "used"),
    [
        ("anisora", {"width": 271, "height": 2047, "num_frames": 240}, {"width": 256, "height": 2032, "num_frames": 233}),
        ("phr00t", {"width": 271, "height": 2047, "num_frames": 240}, {"width": 256, "height": 2032, "num_frames": 237}),
        ("phr00t", {"num_frames": 4}, {"num_frames": 1}),
    ],
)
def test_nearest_value_not_above_is_used_and_recorded(door: Door, model: str, sent: dict[str, int], used: dict[str, int]) -> None:
    task_id = door.done(**sent, model=model, seed=7)
    item = door.item(task_id)
    assert {name: item["parameters"][name] for name in used} == used
    assert item["seed"] == 7


def test_prompt_is_kept_as_it_was_given(key_door: Door) -> None:
    prompt = "  Ärger im Schloß — 湖 🏯\n\u202bعربي\u202c  "
    task_id = key_door.done(prompt=prompt, negative_prompt="żółw")
    item = key_door.item(task_id)
    assert (item["prompt"], item["negative_prompt"]) == (prompt, "żółw")


def test_every_wrong_field_is_named_when_there_are_several(door: Door) -> None:
    body = {**SMALL, "steps": 9, "width": 1, "prompt": "", "fps": "fast", "mode": "i2v"}
    assert wrong_fields(door.http.post("/generate", json=body)) == {"steps", "width", "prompt", "fps", "reference_image"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"text"', b'{"model": NaN}', b"\xff\xfe"])
def test_body_is_refused_when_it_is_no_json_object(door: Door, content: bytes) -> None:
    assert wrong_fields(door.http.post("/generate", content=content, headers={"Content-Type": "application/json"})) == {"body"}


@pytest.mark.parametrize("model", ["pony", "flux"])
def test_image_model_is_unavailable_when_there_is_no_upstream(door: Door, model: str) -> None:
    body = {"model": model, "type": "image", "mode": "txt2img", "prompt": "a lake"}
    assert_envelope(door.http.post("/generate", json=body), 503, "model_unavailable")


def _encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, kind, **options)
    return file.getvalue()


def _padded_png(size_bytes: int) -> bytes:
    """A good PNG of exactly this size: a private chunk, which decoders skip, fills it up."""
    picture = png()
    filling = b"\0" * (size_bytes - len(picture) - 12)
    chunk = b"prVt" + filling
    padding = struct.pack(">I", len(filling)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return picture[:-12] + padding + picture[-12:]


def _one_bit_png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


_GOOD_PICTURES = [
    ("png", PICTURE),
    ("jpeg", data_uri(_encoded("JPEG"), "image/jpeg")),
    ("webp", data_uri(_encoded("WEBP"), "image/webp")),
    ("of 12 MiB", data_uri(_padded_png(_MAX_IMAGE_BYTES))),
]
_BAD_PICTURES = [
    ("over 12 MiB", data_uri(_padded_png(_MAX_IMAGE_BYTES + 1))),
    ("over 64 megapixels", data_uri(_one_bit_png(8001, 8000))),
    ("gif", data_uri(_encoded("GIF"), "image/gif")),
    ("gif called png", data_uri(_encoded("GIF"))),
    ("jpeg called png", data_uri(_encoded("JPEG"))),
    ("cut short", data_uri(png()[:-20])),
    ("text", data_uri(b"hello")),
    ("no base64", "data:image/png;base64,%%%"),
    ("not encoded", "data:image/png,abc"),
    ("address", "https://localhost/picture.png"),
    ("empty", ""),
    ("number", 5),
    ("reference of gRPC", {"key": "inputs/" + "0" * 64}),
]


@pytest.mark.parametrize("picture", [pytest.param(value, id=name) for name, value in _GOOD_PICTURES])
def test_picture_is_accepted_when_it_is_whole_and_within_the_limits(key_door: Door, picture: str) -> None:
    key_door.accepted(mode="i2v", reference_image=picture)


@pytest.mark.parametrize("picture", [pytest.param(value, id=name) for name, value in _BAD_PICTURES])
def test_picture_is_refused_by_its_field_when_it_is_not(key_door: Door, picture: object) -> None:
    body = {**SMALL, "mode": "i2v", "reference_image": picture}
    assert wrong_fields(key_door.http.post("/generate", content=json.dumps(body))) == {"reference_image"}


def test_picture_of_64_megapixels_is_accepted(key_door: Door) -> None:
    key_door.accepted(mode="i2v", reference_image=data_uri(_one_bit_png(8000, 8000)))
