"""POST /generate with a key, and while admission goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from runtime.submitter import OWN_KEY_PREFIX
from tests.harness.bridge import WITH_KEY, BridgeUnderTest, data_uri, png, running_bridge

TEXT = {"model": "anisora", "type": "video", "prompt": "a lake at dawn", "width": 512, "height": 512, "num_frames": 17}
PICTURE = {**TEXT, "mode": "i2v", "reference_image": data_uri(png())}


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects") as bridge:
        yield bridge


async def _post(bridge: BridgeUnderTest, body: object, key: str | None = None, path: str = "/generate") -> httpx.Response:
    headers = WITH_KEY if key is None else {**WITH_KEY, "Idempotency-Key": key}
    return await bridge.http.post(path, headers=headers, json=body)


def _wrong_key(reply: httpx.Response) -> str:
    """What a 422 says of the header."""
    assert reply.status_code == 422, reply.text
    [field] = reply.json()["detail"]["metadata"]["fields"]
    assert field["field"] == "Idempotency-Key"
    return str(field["message"])


@pytest.mark.parametrize("body", [TEXT, PICTURE])
async def test_task_is_the_same_when_key_and_body_are(bridge: BridgeUnderTest, body: dict[str, object]) -> None:
    replies = [await _post(bridge, body, "k1"), await _post(bridge, dict(reversed(body.items())), "k1", "/api/generate_direct")]

    assert [reply.status_code for reply in replies] == [202, 202]
    assert replies[0].json() == replies[1].json()
    first, second = bridge.admission.submitted
    for one in (first, second):
        # Set when the connection took its time, as on a busy machine.
        one.ClearField("waited")
    assert first == second
    assert (first.request_id, first.abandon) == ("k1", False)


async def test_task_is_another_when_no_key_is_sent(bridge: BridgeUnderTest) -> None:
    ids = {(await _post(bridge, TEXT)).json()["task_id"] for _ in range(2)}

    assert len(ids) == 2
    assert all(one.request_id.startswith(OWN_KEY_PREFIX) and one.abandon for one in bridge.admission.submitted)


async def test_task_is_another_when_another_session_sends_the_key(bridge: BridgeUnderTest) -> None:
    sessions = [bridge.add_session(session_id=name) for name in ("s1", "s2")]
    ids = {
        (await bridge.http.post("/generate", headers={**session, "Idempotency-Key": "k1"}, json=TEXT)).json()["task_id"]
        for session in sessions
    }

    assert len(ids) == 2


async def test_key_is_refused_when_it_came_with_another_body(bridge: BridgeUnderTest) -> None:
    await _post(bridge, TEXT, "k1")

    assert "another request" in _wrong_key(await _post(bridge, {**TEXT, "seed": 3}, "k1"))


@pytest.mark.parametrize("key", ["", "x" * 129, "a\tb", OWN_KEY_PREFIX + "0" * 32])
async def test_key_is_refused_when_it_is_not_good(bridge: BridgeUnderTest, key: str) -> None:
    assert _wrong_key(await _post(bridge, TEXT, key))
    assert bridge.admission.submitted == []


async def test_key_is_refused_when_it_is_not_ascii_or_sent_twice(bridge: BridgeUnderTest) -> None:
    twice = [*WITH_KEY.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    foreign = [(b"X-API-Key", WITH_KEY["X-API-Key"].encode()), (b"Idempotency-Key", "schl\u00fcssel".encode())]

    assert "once" in _wrong_key(await bridge.http.post("/generate", headers=twice, json=TEXT))
    assert "ASCII" in _wrong_key(await bridge.http.post("/generate", headers=foreign, json=TEXT))


async def test_longest_key_is_accepted(bridge: BridgeUnderTest) -> None:
    key = "".join(map(chr, range(0x21, 0x7F)))[:93] + "x" * 35

    assert (await _post(bridge, TEXT, key)).status_code == 202
    assert bridge.admission.submitted[0].request_id == key


async def test_header_is_documented_for_both_paths(bridge: BridgeUnderTest) -> None:
    paths = (await bridge.http.get("/openapi.json")).json()["paths"]

    for path in ("/generate", "/generate_direct"):
        [parameter] = [one for one in paths[path]["post"]["parameters"] if one["in"] == "header"]
        assert (parameter["name"], parameter["required"]) == ("Idempotency-Key", False)
        assert "safe to repeat" in parameter["description"]


async def test_browsers_may_send_the_header(bridge: BridgeUnderTest) -> None:
    headers = {
        "Origin": "http://localhost:5173",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "idempotency-key",
    }

    assert (await bridge.http.options("/generate", headers=headers)).status_code == 200


async def test_held_request_is_accepted_when_admission_was_restarted_meanwhile(bridge: BridgeUnderTest) -> None:
    bridge.admission.hold = asyncio.Event()
    posting = asyncio.create_task(_post(bridge, TEXT))
    async with asyncio.timeout(10):
        await bridge.admission.holding.wait()
        await bridge.admission.stop()
        bridge.admission.hold.set()
        await bridge.admission.restart()
        reply = await posting

    assert reply.status_code == 202
    first, second = bridge.admission.submitted
    assert (first.request_id, first.request) == (second.request_id, second.request)
    assert second.HasField("waited")


async def test_task_is_found_again_when_only_the_reply_was_lost(bridge: BridgeUnderTest) -> None:
    """The acceptance is on disk, then admission dies before it can say so."""
    bridge.admission.loses_reply = True
    posting = asyncio.create_task(_post(bridge, TEXT))
    async with asyncio.timeout(10):
        await bridge.admission.holding.wait()
        await bridge.admission.stop()
        await bridge.admission.restart()
        reply = await posting

    assert (reply.status_code, list(bridge.admission.tasks)) == (202, [reply.json()["task_id"]])


async def test_key_of_a_waiting_client_is_repeated_when_admission_was_restarted(bridge: BridgeUnderTest) -> None:
    bridge.admission.loses_reply = True
    posting = asyncio.create_task(_post(bridge, TEXT, "k1"))
    async with asyncio.timeout(10):
        await bridge.admission.holding.wait()
        await bridge.admission.stop()
        await bridge.admission.restart()
        reply = await posting

    assert (reply.status_code, [one.request_id for one in bridge.admission.submitted]) == (202, ["k1", "k1"])
