"""POST /generate: what is accepted, what is refused, what is stored, and who waits how long."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runtime.errors import ErrorCode, ServiceError
from runtime.rules.request import Violation
from tests.harness.bridge import KEY, WITH_KEY, BridgeUnderTest, data_uri, png, running_bridge, served_bridge

TEXT = {"model": "anisora", "type": "video", "mode": "t2v", "prompt": "a lake at dawn", "width": 512, "height": 512, "num_frames": 17}

OVERLOAD = {"cause": "depth", "depth": "25", "max_depth": "25", "waited_s": "0", "max_wait_s": "30"}


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects") as bridge:
        yield bridge


def fields(reply: httpx.Response) -> dict[str, str]:
    """Field to message of a 422."""
    assert reply.status_code == 422, reply.text
    detail = reply.json()["detail"]
    assert detail["code"] == "validation_error"
    return {entry["field"]: entry["message"] for entry in detail["metadata"]["fields"]}


@pytest.mark.parametrize("path", ["/generate", "/api/generate", "/generate_direct", "/api/generate_direct"])
async def test_task_is_accepted_with_its_owner_when_the_key_asks(bridge: BridgeUnderTest, path: str) -> None:
    reply = await bridge.http.post(path, headers=WITH_KEY, json={**TEXT, "unknown_field": 1, "negative_prompt": None})
    assert (reply.status_code, reply.json()) == (202, {"task_id": f"{1:032x}", "status": "pending"})
    sent = bridge.admission.submitted[0]
    assert (sent.owner, sent.request.prompt, sent.request.num_frames, sent.request.steps) == ("key", "a lake at dawn", 17, 8)
    # The seed is for admission to choose, so that the same body stays the same request.
    assert sent.request.seed == -1


async def test_owner_is_the_session_when_a_session_asks(bridge: BridgeUnderTest) -> None:
    reply = await bridge.http.post("/generate", headers=bridge.add_session(session_id="s7"), json=TEXT)
    assert reply.status_code == 202
    assert bridge.admission.submitted[0].owner == "session:s7"


async def test_prompt_is_kept_as_given_when_it_has_any_script(bridge: BridgeUnderTest) -> None:
    prompt = " 湖\n👩‍🚀 بحيرة "
    await bridge.http.post("/generate", headers=WITH_KEY, json={**TEXT, "prompt": prompt})
    assert bridge.admission.submitted[0].request.prompt == prompt


async def test_images_are_stored_by_content_and_sent_as_references_when_all_are_good(bridge: BridgeUnderTest) -> None:
    first, last = png("red"), png("blue")
    body = {**TEXT, "mode": "first_last_frame", "first_frame_image": data_uri(first), "last_frame_image": data_uri(last)}
    assert (await bridge.http.post("/generate", headers=WITH_KEY, json=body)).status_code == 202
    request = bridge.admission.submitted[0].request
    assert request.first_frame_image.key == f"inputs/{hashlib.sha256(first).hexdigest()}"
    assert request.last_frame_image.key == f"inputs/{hashlib.sha256(last).hexdigest()}"
    assert {path.read_bytes() for path in bridge.stored_inputs()} == {first, last}


async def test_keyframes_travel_with_their_positions_when_they_are_good(bridge: BridgeUnderTest) -> None:
    frames = [{"frame_index": 0, "image": data_uri(png())}, {"frame_index": 16, "image": data_uri(png()), "strength": 0.5}]
    body = {**TEXT, "mode": "arbitrary_frame", "arbitrary_frames": frames}
    assert (await bridge.http.post("/generate", headers=WITH_KEY, json=body)).status_code == 202
    sent = bridge.admission.submitted[0].request.arbitrary_frames
    assert [(frame.frame_index, frame.strength) for frame in sent] == [(0, 0.85), (16, 0.5)]
    assert len(bridge.stored_inputs()) == 1


async def test_image_is_ignored_when_the_mode_does_not_use_it(bridge: BridgeUnderTest) -> None:
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**TEXT, "reference_image": "data:image/png;base64,AAAA"})
    assert reply.status_code == 202
    assert bridge.stored_inputs() == []


async def test_every_wrong_field_is_named_when_several_are_wrong(bridge: BridgeUnderTest) -> None:
    body = {**TEXT, "steps": 4, "width": "wide", "prompt": " ", "mode": "i2v", "reference_image": 5}
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json=body)
    assert {"steps", "width", "prompt", "reference_image"} == set(fields(reply))
    assert bridge.admission.submitted == []


@pytest.mark.parametrize(
    ("model", "field", "value"), [("anisora", "steps", 4), ("phr00t", "steps", 8), ("phr00t", "cfg_scale", 2.0), ("phr00t", "cfg", 2)]
)
async def test_fixed_parameter_is_refused_when_another_value_is_sent(bridge: BridgeUnderTest, model: str, field: str, value: float) -> None:
    assert set(fields(await bridge.http.post("/generate", headers=WITH_KEY, json={**TEXT, "model": model, field: value}))) == {field}


async def test_every_bad_image_is_named_and_nothing_stored_when_one_is_good(bridge: BridgeUnderTest) -> None:
    frames = [
        {"frame_index": 0, "image": data_uri(png())},
        {"frame_index": 8, "image": data_uri(png()[:-20])},
        {"frame_index": 16, "image": data_uri(png(), "image/jpeg")},
    ]
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**TEXT, "mode": "arbitrary_frame", "arbitrary_frames": frames})
    assert set(fields(reply)) == {"arbitrary_frames[1].image", "arbitrary_frames[2].image"}
    assert (bridge.stored_inputs(), bridge.admission.submitted) == ([], [])


@pytest.mark.parametrize(
    "image",
    [
        {"key": "inputs/" + "a" * 64},
        {},
        [],
        7,
        True,
        "inputs/" + "a" * 64,
        "",
        "data:text/plain;base64,AAAA",
        "https://x.example.org/a.png",
    ],
)
async def test_image_is_refused_when_it_is_not_a_data_uri(bridge: BridgeUnderTest, image: object) -> None:
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**TEXT, "mode": "i2v", "reference_image": image})
    assert set(fields(reply)) == {"reference_image"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"width": NaN}', b'{"prompt": "\\ud800"}', b"[" * 5000, b"9" * 9000]
)
async def test_body_is_named_when_it_is_not_a_json_object(bridge: BridgeUnderTest, content: bytes) -> None:
    assert set(fields(await bridge.http.post("/generate", headers=WITH_KEY, content=content))) == {"body"}


@pytest.mark.parametrize("model", ["pony", "flux"])
async def test_image_model_is_unavailable_when_there_is_no_upstream(bridge: BridgeUnderTest, model: str) -> None:
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={"model": model, "type": "image", "prompt": "a lake"})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (503, "model_unavailable")


@pytest.mark.parametrize("is_declared", [True, False])
async def test_body_is_refused_when_it_is_over_the_limit(tmp_path: Path, is_declared: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 1024

    content: Any = b" " * 40 * 1024 if is_declared else pieces()
    async with served_bridge(tmp_path / "objects", max_body_bytes=16 * 1024) as bridge:
        reply = await bridge.http.post("/generate", headers=WITH_KEY, content=content)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (413, "payload_too_large")
    assert reply.json()["detail"]["metadata"] == {"max_body_bytes": 16 * 1024}


def _head(*lines: str) -> bytes:
    return "\r\n".join(("POST /generate HTTP/1.1", "Host: x", f"X-API-Key: {KEY}", *lines, "", "")).encode()


async def test_body_is_refused_at_once_when_the_client_asks_before_sending(tmp_path: Path) -> None:
    async with served_bridge(tmp_path / "objects") as bridge:
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.http.base_url.port)
        writer.write(_head("Content-Length: 99999999999", "Expect: 100-continue"))
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()
        await writer.wait_closed()


async def test_client_is_told_when_its_body_takes_too_long(tmp_path: Path) -> None:
    async with served_bridge(tmp_path / "objects", body_timeout_s=0.1) as bridge:
        reader, writer = await asyncio.open_connection("127.0.0.1", bridge.http.base_url.port)
        writer.write(_head("Content-Length: 9") + b"{")
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


async def test_large_body_is_accepted_when_it_is_within_the_limit(tmp_path: Path) -> None:
    noise = png(size=(64, 64))
    async with served_bridge(tmp_path / "objects") as bridge:
        body = json.dumps({**TEXT, "mode": "i2v", "reference_image": data_uri(noise), "ignored": "x" * 8_000_000})
        reply = await bridge.http.post("/generate", headers=WITH_KEY, content=body)
        assert reply.status_code == 202
        assert [path.read_bytes() for path in bridge.stored_inputs()] == [noise]


@pytest.mark.parametrize(
    ("refusal", "status", "metadata"),
    [
        (ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Not now.", retry_after_s=2), 503, None),
        (
            ServiceError(code=ErrorCode.QUEUE_OVERLOADED, message="Full.", metadata=OVERLOAD, retry_after_s=2),
            503,
            {"cause": "depth", "depth": 25, "max_depth": 25, "waited_seconds": 0.0, "max_wait_seconds": 30.0},
        ),
        (ServiceError(code=ErrorCode.VRAM_EXCEEDED, message="Too large.", metadata={"max_num_frames": "49"}), 422, {"max_num_frames": 49}),
        (
            ServiceError(code=ErrorCode.VALIDATION_ERROR, message="Wrong.", violations=(Violation(field="fps", message="must be 16"),)),
            422,
            {"fields": [{"field": "fps", "message": "must be 16"}]},
        ),
    ],
)
async def test_refusal_of_admission_is_told_when_it_comes(
    bridge: BridgeUnderTest, refusal: ServiceError, status: int, metadata: object
) -> None:
    bridge.admission.refusal = refusal
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json=TEXT)
    detail = reply.json()["detail"]
    assert (reply.status_code, detail["code"], detail.get("metadata")) == (status, refusal.code, metadata)
    assert reply.headers.get("Retry-After") == ("2" if status == 503 else None)


async def test_service_is_unavailable_when_nothing_listens_for_grpc(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects") as bridge:
        await bridge.admission.stop()
        reply = await bridge.http.post("/generate", headers=WITH_KEY, json=TEXT)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (503, "service_unavailable")
    assert int(reply.headers["Retry-After"]) >= 1


async def test_service_is_unavailable_when_the_store_cannot_be_written(bridge: BridgeUnderTest) -> None:
    (bridge.folder / "inputs").write_text("a file where the folder should be")
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**TEXT, "mode": "i2v", "reference_image": data_uri(png())})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (503, "service_unavailable")
    assert bridge.admission.submitted == []


async def test_reply_comes_when_a_held_request_gets_its_place(bridge: BridgeUnderTest) -> None:
    bridge.admission.hold = asyncio.Event()
    posting = asyncio.create_task(bridge.http.post("/generate", headers=WITH_KEY, json=TEXT))
    async with asyncio.timeout(5):
        await bridge.admission.holding.wait()
        bridge.admission.hold.set()
        assert (await posting).status_code == 202


async def test_place_is_given_back_when_the_client_leaves(tmp_path: Path) -> None:
    async with served_bridge(tmp_path / "objects") as bridge:
        bridge.admission.hold = asyncio.Event()
        posting = asyncio.create_task(bridge.http.post("/generate", headers=WITH_KEY, json=TEXT))
        async with asyncio.timeout(5):
            await bridge.admission.holding.wait()
            posting.cancel()
            await asyncio.gather(posting, return_exceptions=True)
            await bridge.admission.given_back.wait()


async def test_held_request_is_told_to_come_again_when_the_bridge_stops(bridge: BridgeUnderTest) -> None:
    bridge.admission.hold = asyncio.Event()
    posting = asyncio.create_task(bridge.http.post("/generate", headers=WITH_KEY, json=TEXT))
    async with asyncio.timeout(5):
        await bridge.admission.holding.wait()
        bridge.app.state.bridge.stopping.set()
        reply = await posting
        await bridge.admission.given_back.wait()
    assert (reply.status_code, reply.json()["detail"]["code"]) == (503, "service_unavailable")


async def test_small_body_is_accepted_while_a_large_one_waits_when_places_are_taken(tmp_path: Path) -> None:
    large = json.dumps({**TEXT, "ignored": "x" * 2_000_000})
    async with served_bridge(tmp_path / "objects", large_bodies_at_once=1) as bridge:
        async with asyncio.timeout(10):
            async with bridge.app.state.bridge.large_bodies.room() as only_place:
                await only_place.ensure(len(large))
                waiting = asyncio.create_task(bridge.http.post("/generate", headers=WITH_KEY, content=large))
                assert (await bridge.http.post("/generate", headers=WITH_KEY, json=TEXT)).status_code == 202
                assert not waiting.done()
            assert (await waiting).status_code == 202
