"""Image requests, status, cancel and delete through the bridge, with a real server behind it that keeps what it gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from tests.harness.bridge import WITH_KEY, BridgeUnderTest, data_uri, png, running_bridge
from tests.harness.upstream import IMAGE_BODY, ONE_TASK, UpstreamDouble, code_of, envelope, image_settings, upstream_double

PREFIXES = pytest.mark.parametrize("prefix", ["", "/api"])


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[UpstreamDouble]:
    async with upstream_double(tmp_path / "upstream") as double:
        yield double


@pytest.fixture
async def bridge(tmp_path: Path, upstream: UpstreamDouble) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects", **image_settings(upstream)) as bridge:
        yield bridge


async def test_image_request_goes_to_the_upstream_as_it_came_when_its_model_is_one_of_images(
    bridge: BridgeUnderTest, upstream: UpstreamDouble
) -> None:
    content = b' {"model":"flux", "prompt":"\\u00e9 lake", "unknown":[1,2]}\n'
    headers = {**WITH_KEY, "Content-Type": "application/json"}
    for number, path in enumerate(("/generate", "/generate_direct", "/api/generate", "/api/generate_direct")):
        reply = await bridge.http.post(path, headers=headers, content=content)
        assert (reply.status_code, reply.json()) == (202, {"task_id": f"image-up-{number:04d}", "status": "pending"})
        came = upstream.requests[-1]
        assert (came.method, came.path, came.body) == ("POST", "/generate", content)
    assert bridge.admission.submitted == []


async def test_large_body_arrives_whole_when_it_is_passed_on(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    picture = data_uri(b"x" * 3_000_000)
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**IMAGE_BODY, "mode": "img2img", "reference_image": picture})
    assert reply.status_code == 202
    assert picture.encode() in upstream.requests[0].body
    assert upstream.requests[0].header("content-length") == str(len(upstream.requests[0].body))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": "video"}, "type"),
    ({"mode": "t2v"}, "mode"),
    ({"prompt": " "}, "prompt"),
    ({"prompt": "x" * 2001}, "prompt"),
    ({"width": 255}, "width"),
    ({"height": 2049}, "height"),
    ({"seed": -2}, "seed"),
    ({"clip_skip": 5}, "clip_skip"),
    ({"output_format": "gif"}, "output_format"),
    ({"mode": "img2img"}, "reference_image"),
    ({"reference_image": "https://example.org/a.png"}, "reference_image"),
]


async def test_field_is_named_and_nothing_is_passed_on_when_an_image_request_is_wrong(
    bridge: BridgeUnderTest, upstream: UpstreamDouble
) -> None:
    for change, field in WRONG:
        reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**IMAGE_BODY, **change})
        assert code_of(reply) == (422, "validation_error")
        assert [one["field"] for one in reply.json()["detail"]["metadata"]["fields"]] == [field]
    assert upstream.requests == []


async def test_video_goes_to_admission_when_an_upstream_is_set(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={"model": "anisora", "prompt": "a lake"})
    assert reply.status_code == 202
    assert (len(bridge.admission.submitted), upstream.requests) == (1, [])


async def test_picture_is_not_decoded_here_when_it_is_the_upstreams(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for picture in (data_uri(png()), data_uri(b"not a picture")):
        body = {**IMAGE_BODY, "mode": "img2img", "reference_image": picture}
        assert (await bridge.http.post("/generate", headers=WITH_KEY, json=body)).status_code == 202
    assert bridge.stored_inputs() == []


async def test_idempotency_keys_of_two_callers_never_meet_when_they_are_equal(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    callers = [WITH_KEY, bridge.add_session(session_id="s1"), bridge.add_session(session_id="s2")]
    for caller in (*callers, *callers):
        assert (await bridge.http.post("/generate", headers={**caller, "Idempotency-Key": "mine"}, json=IMAGE_BODY)).status_code == 202
    keys = [one.header("idempotency-key") for one in upstream.requests]
    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3
    assert all(key is not None and "mine" not in key and len(key) == 64 for key in keys)


async def test_request_schema_describes_images_when_the_documentation_is_read(bridge: BridgeUnderTest) -> None:
    post = (await bridge.http.get("/openapi.json")).json()["paths"]["/generate"]["post"]
    schemas = post["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    [image] = [schema for schema in schemas if schema["properties"]["model"]["enum"] == ["pony", "flux"]]
    assert {"reference_image", "clip_skip", "sampler", "prompt"} <= set(image["properties"])


@PREFIXES
async def test_status_has_the_contracts_fields_with_our_ids_when_an_image_is_done(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, prefix: str
) -> None:
    upstream.add_image(
        "a1", diagnostics={"events": [{"event_type": "x", "value": "1", "reason": "", "created_at": "2026-01-01T12:00:00Z"}]}
    )
    reply = await bridge.http.get(f"{prefix}/status/image-a1", headers=bridge.add_session())
    assert reply.status_code == 200
    found = reply.json()
    assert (found["task_id"], found["status"], found["progress"], found["stage"]) == ("image-a1", "done", 100, "completed")
    assert (found["result_url"], found["preview_url"]) == ("/results/image-a1", "/preview/image-a1")
    # The upstream's clock has no zone: it is UTC.
    assert found["created_at"] == "2026-01-01T12:00:00Z"
    assert found["diagnostics"]["events"][0]["event_type"] == "x"
    # Members that only the upstream knows are its own business.
    assert not {"host", "prompt", "id"} & set(found)
    video = bridge.add_done_task()
    assert set(found) == set((await bridge.http.get(f"/status/{video.task_id}", headers=WITH_KEY)).json())


async def test_status_says_the_error_twice_when_an_image_failed(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1", status="failed", stage="weird", error_msg="It broke.", lane_mode="fast", progress=250)
    found = (await bridge.http.get("/status/image-a1", headers=WITH_KEY)).json()
    assert (found["error"], found["error_msg"], found["stage"], found["lane_mode"], found["progress"]) == (
        "It broke.",
        "It broke.",
        "failed",
        None,
        100,
    )
    assert (found["result_url"], found["preview_url"]) == (None, None)


async def test_status_is_unavailable_when_the_upstream_says_what_makes_no_sense(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for members in ({"status": "melted"}, {"created_at": "yesterday"}, {"created_at": None}):
        upstream.add_image("a1", **members)
        assert code_of(await bridge.http.get("/status/image-a1", headers=WITH_KEY)) == (503, "service_unavailable")


BAD_PARTS = ["", "a.b", "..", "%2e%2e", "a%2Fb", "a" * 65, "a%00", "\u00e9", "a%3Fb"]


async def test_upstream_is_not_asked_when_an_id_could_be_another_path(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for part in BAD_PARTS:
        for method, path in ONE_TASK:
            reply = await bridge.http.request(method, f"{path}image-{part}", headers=WITH_KEY)
            assert reply.status_code == 404, path + part
    assert upstream.requests == []


async def test_image_paths_need_a_credential_when_an_upstream_is_set(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for method, path in (*ONE_TASK, *((method, f"/api{path}") for method, path in ONE_TASK)):
        assert (await bridge.http.request(method, f"{path}image-a1")).status_code == 401, path
    assert upstream.requests == []


async def test_image_ids_are_unknown_and_models_unavailable_when_no_upstream_is_set(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects") as bridge:
        for method, path in ONE_TASK:
            reply = await bridge.http.request(method, f"{path}image-a1", headers=WITH_KEY)
            assert reply.status_code == 404, path
            assert method == "HEAD" or reply.json()["detail"]["code"] == "task_not_found"
        assert code_of(await bridge.http.post("/generate", headers=WITH_KEY, json=IMAGE_BODY)) == (503, "model_unavailable")


@PREFIXES
async def test_image_is_gone_everywhere_when_it_was_deleted(bridge: BridgeUnderTest, upstream: UpstreamDouble, prefix: str) -> None:
    upstream.add_image("a1")
    reply = await bridge.http.delete(f"{prefix}/gallery/image-a1", headers=WITH_KEY)
    assert (reply.status_code, reply.json()) == (200, {"deleted": True, "id": "image-a1"})
    assert code_of(await bridge.http.delete("/gallery/image-a1", headers=WITH_KEY)) == (404, "task_not_found")
    assert code_of(await bridge.http.get("/status/image-a1", headers=WITH_KEY)) == (404, "task_not_found")


async def test_image_is_cancelled_when_the_upstream_can(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1", status="processing")
    reply = await bridge.http.post("/cancel/image-a1", headers=WITH_KEY)
    assert (reply.status_code, reply.json()) == (200, {"task_id": "image-a1", "status": "failed"})
    assert code_of(await bridge.http.post("/cancel/image-a2", headers=WITH_KEY)) == (404, "task_not_found")


async def test_cancel_is_not_supported_when_the_upstream_has_no_such_path(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.cancels = False
    upstream.add_image("a1", status="processing")
    assert code_of(await bridge.http.post("/cancel/image-a1", headers=WITH_KEY)) == (501, "not_supported")
    assert code_of(await bridge.http.post("/cancel/image-a2", headers=WITH_KEY)) == (404, "task_not_found")


ANSWERS: list[tuple[int, Any, dict[str, str], tuple[int, str, str]]] = [
    (404, envelope("task_not_found", "Gone."), {}, (404, "task_not_found", "Gone.")),
    (503, envelope("queue_overloaded", "Full.", depth=3), {"Retry-After": "7"}, (503, "queue_overloaded", "Full.")),
    (429, envelope("rate_limited", "Slow."), {"Retry-After": "9"}, (429, "rate_limited", "Slow.")),
    (422, envelope("validation_error", "Wrong.", fields=[]), {}, (422, "validation_error", "Wrong.")),
    (422, {"detail": [{"loc": ["body"], "msg": "no"}]}, {}, (400, "bad_request", "The image server refused the request.")),
    (404, {"detail": "Not Found"}, {}, (404, "task_not_found", "There is no such task.")),
    (500, envelope("internal", "Trace: /srv/app.py"), {}, (503, "service_unavailable", "The image server failed.")),
    (502, "<html>", {}, (503, "service_unavailable", "The image server failed.")),
    (302, {}, {"Location": "http://127.0.0.1:1/"}, (503, "service_unavailable", "The image server failed.")),
    (401, envelope("unauthenticated", "Who?"), {}, (503, "service_unavailable", "The image server cannot be used now.")),
    (400, envelope("admin_key_invalid", "?"), {}, (400, "bad_request", "The image server refused the request.")),
    (400, {"detail": {"code": ["a"], "detail": {}}}, {}, (400, "bad_request", "The image server refused the request.")),
    (200, [1], {}, (503, "service_unavailable", "The image server gave an answer that makes no sense.")),
]


async def test_error_is_one_of_the_contract_when_the_upstream_answers_with_any(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for status, content, headers, expected in ANSWERS:
        upstream.error("GET", "/status/a1", status, content, **headers)
        reply = await bridge.http.get("/status/image-a1", headers=WITH_KEY)
        assert (*code_of(reply), reply.json()["detail"]["detail"]) == expected
        if "Retry-After" in headers:
            assert reply.headers["retry-after"] == headers["Retry-After"]


async def test_upstream_failed_when_it_has_no_such_path_at_all(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    """The base URL leads elsewhere: that is nobody's missing task."""
    for method, path in (("POST", "/generate"), ("GET", "/gallery")):
        for content in ({"detail": "Not Found"}, envelope("task_not_found", "No.")):
            upstream.error(method, path, 404, content)
            body: dict[str, Any] = {"json": IMAGE_BODY} if method == "POST" else {}
            assert code_of(await bridge.http.request(method, path, headers=WITH_KEY, **body)) == (503, "service_unavailable")


async def test_numbers_that_are_none_are_null_when_an_upstream_sends_them(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    body = b'{"detail":{"code":"queue_overloaded","detail":"Full.","metadata":{"depth":1e999,"of":[-1e999]}}}'
    upstream.answers["GET", "/status/a1"] = lambda: Response(body, status_code=503)
    reply = await bridge.http.get("/status/image-a1", headers=WITH_KEY)
    assert reply.json()["detail"]["metadata"] == {"depth": None, "of": [None]}


async def test_requests_are_unavailable_when_nobody_listens_upstream(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", image_upstream_url="http://127.0.0.1:1") as bridge:
        assert code_of(await bridge.http.post("/generate", headers=WITH_KEY, json=IMAGE_BODY)) == (503, "service_unavailable")
        assert code_of(await bridge.http.get("/status/image-a1", headers=WITH_KEY)) == (503, "service_unavailable")
