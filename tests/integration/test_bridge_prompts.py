"""Prompts over HTTP: kept character for character in any script, counted in code points, control characters refused."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.bridge import WITH_KEY, BridgeUnderTest, running_bridge

_PATIENCE_S = 10.0

_KEPT = [
    "a boat on a lake",
    "湖の上の舟、朝霧、\u3000広角",
    "호수 위의 배",
    "قارب على البحيرة",
    "סירה על האגם",
    "झील पर नाव",
    "เรือบนทะเลสาบ",
    "ნავი ტბაზე",
    "Λίμνη, лодка, göl, hồ nước",
    "ᚠᚢᚦ 𒀀𒁀 𓀀𓂀 𐍈",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇯🇵 1️⃣",
    "e\u0301 as two, \u00e9 as one",
    "Z\u0351\u0346\u0343\u0365a\u0335l\u0328g\u0317o\u0323",
    "left \u200eand\u200f right, \u202bembedded\u202c, \u2066isolated\u2069",
    "zero\u200bwidth\u200cjoin\u200der\ufeff",
    "soft\u00adhyphen, no\u00a0break, thin\u2009space",
    "two\nlines\r\nand\ta tab",
    "line\u2028and paragraph\u2029separators",
    "private \ue000 and \U000f0000, no character \ufffe \U0010ffff",
    '"quotes" \\ back\\slash \\n </script> {json: []} %s %00 ${x} \'; DROP TABLE tasks; --',
    "  spaces around stay  ",
]
_CONTROLS = [chr(number) for number in range(0x20) if chr(number) not in "\t\n\r"] + [chr(number) for number in range(0x7F, 0xA0)]


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects") as bridge:
        yield bridge


async def _send(bridge: BridgeUnderTest, content: bytes) -> httpx.Response:
    return await bridge.http.post("/generate", content=content, headers={**WITH_KEY, "Content-Type": "application/json"})


def _body(prompt: str, *, ascii_only: bool) -> bytes:
    fields = {"model": "anisora", "prompt": prompt, "negative_prompt": prompt[:1000]}
    return json.dumps(fields, ensure_ascii=ascii_only).encode()


async def _is_kept(bridge: BridgeUnderTest, prompt: str, *, ascii_only: bool) -> None:
    reply = await _send(bridge, _body(prompt, ascii_only=ascii_only))
    assert reply.status_code == 202, (prompt, reply.text)
    request = bridge.admission.submitted[-1].request
    assert (request.prompt, request.negative_prompt) == (prompt, prompt[:1000])
    # What a client reads back is what it sent: nothing is normalised, trimmed or escaped on the way.
    page = (await bridge.http.get(f"/status/{reply.json()['task_id']}", headers=WITH_KEY)).status_code
    assert page == 200


async def test_prompt_is_kept_as_it_was_sent_when_it_is_of_any_script(bridge: BridgeUnderTest) -> None:
    for prompt in _KEPT:
        for ascii_only in (False, True):
            await _is_kept(bridge, prompt, ascii_only=ascii_only)


async def test_prompt_is_refused_when_it_has_a_control_character(bridge: BridgeUnderTest) -> None:
    for control in _CONTROLS:
        assert unicodedata.category(control) == "Cc"
        for field in ("prompt", "negative_prompt"):
            body = json.dumps({"model": "anisora", "prompt": "x", field: f"a{control}b"}).encode()
            reply = await _send(bridge, body)
            assert reply.status_code == 422, repr(control)
            assert [item["field"] for item in reply.json()["detail"]["metadata"]["fields"]] == [field]
    assert bridge.admission.submitted == []


@pytest.mark.parametrize("half", [r"\ud800", r"\udc00", r"\udfff \ud800", r"a\ud83d"])
async def test_prompt_is_refused_when_it_has_half_of_a_surrogate_pair(bridge: BridgeUnderTest, half: str) -> None:
    reply = await _send(bridge, b'{"model": "anisora", "prompt": "' + half.encode() + b'"}')
    assert (reply.status_code, reply.json()["detail"]["code"]) == (422, "validation_error")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
async def test_body_is_refused_when_it_is_no_utf_8(bridge: BridgeUnderTest, content: bytes) -> None:
    reply = await _send(bridge, b'{"model": "anisora", "prompt": "' + content + b'"}')
    assert (reply.status_code, reply.json()["detail"]["code"]) == (422, "validation_error")


# One code point each, of one to four bytes; what looks like one character may be several.
@pytest.mark.parametrize("character", ["a", "é", "湖", "🏔", "\u0301"])
async def test_length_is_counted_in_code_points_when_characters_take_several_bytes(bridge: BridgeUnderTest, character: str) -> None:
    await _is_kept(bridge, character * 2000, ascii_only=False)
    reply = await _send(bridge, json.dumps({"model": "anisora", "prompt": character * 2001}, ensure_ascii=False).encode())
    assert reply.status_code == 422
    assert reply.json()["detail"]["metadata"]["fields"][0]["message"] == "must have at most 2000 characters, it has 2001"


@pytest.mark.parametrize("blank", ["", " ", "\n\t\r", "\u00a0", "\u3000\u2003", "\u2028"])
async def test_prompt_is_refused_when_it_is_blank(bridge: BridgeUnderTest, blank: str) -> None:
    reply = await _send(bridge, _body(blank, ascii_only=True))
    assert [item["field"] for item in reply.json()["detail"]["metadata"]["fields"]] == ["prompt"]


async def test_any_text_is_kept_or_refused_and_never_changed(bridge: BridgeUnderTest) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50), ascii_only=st.booleans())
    def check(prompt: str, ascii_only: bool) -> None:
        before = len(bridge.admission.submitted)
        reply = asyncio.run_coroutine_threadsafe(_send(bridge, _body(prompt, ascii_only=ascii_only)), loop).result(_PATIENCE_S)
        is_wrong = not prompt.strip() or any(unicodedata.category(one) == "Cc" and one not in "\t\n\r" for one in prompt)
        assert reply.status_code == (422 if is_wrong else 202)
        kept = [message.request.prompt for message in bridge.admission.submitted[before:]]
        assert kept == ([] if is_wrong else [prompt])

    await asyncio.to_thread(check)
