"""What a body is refused for before anything is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from http_bridge import intake
from http_bridge.errors import HttpError
from http_bridge.intake import read_draft
from tests.harness.bridge import data_uri, png

TEXT = {"model": "anisora", "type": "video", "prompt": "a lake"}


def _refused(body: bytes) -> list[Any]:
    with pytest.raises(HttpError) as caught:
        read_draft(body)
    assert caught.value.status == 422
    assert caught.value.metadata is not None
    fields: list[Any] = caught.value.metadata["fields"]
    return fields


# The parser keeps the interpreter's lock, in a thread too: 20 MB of these held up every other request for seconds.
@pytest.mark.parametrize("entry", [b"[],", b"{},", b"1,", b"[", b'{"a":', b'"\\u0101",'])
def test_body_is_refused_unparsed_when_it_has_too_much_structure(entry: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "from_json", lambda *_, **__: pytest.fail("parsed"))
    [field] = _refused(b'{"model":"anisora","prompt":"a","zz":[' + entry * 20_001 + b"0]}")
    assert field == {"field": "body", "message": "has more than 20000 commas, opening brackets and escaped letters"}


def test_body_is_read_when_its_prompts_are_all_commas_and_escapes() -> None:
    body = {**TEXT, "prompt": "," * 2000, "negative_prompt": "\N{CLOWN FACE}" * 1000}
    assert read_draft(json.dumps(body).encode()).raw["prompt"] == "," * 2000


def test_one_violation_is_told_when_the_list_of_keyframes_is_too_long() -> None:
    # Each entry beyond the limit got a violation of its own.
    frames = [{"frame_index": number, "image": data_uri(png())} for number in range(21)]
    body = {**TEXT, "mode": "arbitrary_frame", "arbitrary_frames": [*frames, *[{"image": 1}] * 3000]}
    [field] = _refused(json.dumps(body).encode())
    assert field == {"field": "arbitrary_frames", "message": "must have at most 21 entries, it has 3021"}
