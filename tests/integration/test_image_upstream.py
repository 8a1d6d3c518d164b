"""Image requests, status, files, gallery and models through the bridge, with a real server behind it that keeps what it gets."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from structlog.testing import capture_logs
from warmlane.admission.v1.task_pb2 import TaskState

from tests.harness.admission_double import make_task
from tests.harness.bridge import KEY, WITH_KEY, BridgeUnderTest, data_uri, png, running_bridge, served_bridge
from tests.harness.upstream import IMAGE_KEY, UpstreamDouble, envelope, upstream_double

PREFIXES = pytest.mark.parametrize("prefix", ["", "/api"])
BODY = {"model": "pony", "type": "image", "mode": "txt2img", "prompt": "a lake at dawn", "steps": 28, "anything": {"else": [1]}}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[UpstreamDouble]:
    async with upstream_double(tmp_path / "upstream") as double:
        yield double


@pytest.fixture
async def bridge(tmp_path: Path, upstream: UpstreamDouble) -> AsyncIterator[BridgeUnderTest]:
    settings = {"image_upstream_url": upstream.url, "image_upstream_key": IMAGE_KEY, "upstream_timeout_s": 5}
    async with running_bridge(tmp_path / "objects", **settings) as bridge:
        yield bridge


def _code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["detail"]["code"]


@PREFIXES
@pytest.mark.parametrize("path", ["/generate", "/generate_direct"])
async def test_image_request_goes_to_the_upstream_as_it_came_when_its_model_is_one_of_images(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, prefix: str, path: str
) -> None:
    content = b' {"model":"flux", "prompt":"\\u00e9 lake", "unknown":[1,2]}\n'
    headers = {**WITH_KEY, "Content-Type": "application/json"}
    reply = await bridge.http.post(prefix + path, headers=headers, content=content)
    assert (reply.status_code, reply.json()) == (202, {"task_id": "image-up-0000", "status": "pending"})
    [came] = upstream.requests
    assert (came.method, came.path, came.body) == ("POST", "/generate", content)
    assert bridge.admission.submitted == []


async def test_large_body_arrives_whole_when_it_is_passed_on(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    picture = data_uri(b"x" * 3_000_000)
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**BODY, "mode": "img2img", "reference_image": picture})
    assert reply.status_code == 202
    assert picture.encode() in upstream.requests[0].body
    assert upstream.requests[0].header("content-length") == str(len(upstream.requests[0].body))


@pytest.mark.parametrize(
    ("change", "field"),
    [
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
    ],
)
async def test_field_is_named_and_nothing_is_passed_on_when_an_image_request_is_wrong(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, change: dict[str, Any], field: str
) -> None:
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={**BODY, **change})
    assert _code(reply) == (422, "validation_error")
    assert [one["field"] for one in reply.json()["detail"]["metadata"]["fields"]] == [field]
    assert upstream.requests == []


async def test_video_goes_to_admission_when_an_upstream_is_set(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    reply = await bridge.http.post("/generate", headers=WITH_KEY, json={"model": "anisora", "prompt": "a lake"})
    assert reply.status_code == 202
    assert (len(bridge.admission.submitted), upstream.requests) == (1, [])


async def test_idempotency_keys_of_two_callers_never_meet_when_they_are_equal(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    callers = [WITH_KEY, bridge.add_session(session_id="s1"), bridge.add_session(session_id="s2")]
    for caller in (*callers, *callers):
        assert (await bridge.http.post("/generate", headers={**caller, "Idempotency-Key": "mine"}, json=BODY)).status_code == 202
    keys = [one.header("idempotency-key") for one in upstream.requests]
    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3
    assert all(key is not None and "mine" not in key and len(key) == 64 for key in keys)


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


@pytest.mark.parametrize("members", [{"status": "melted"}, {"created_at": "yesterday"}, {"created_at": None}])
async def test_status_is_unavailable_when_the_upstream_says_what_makes_no_sense(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, members: dict[str, Any]
) -> None:
    upstream.add_image("a1", **members)
    assert _code(await bridge.http.get("/status/image-a1", headers=WITH_KEY)) == (503, "service_unavailable")


ONE_TASK = [
    ("GET", "/status/"),
    ("GET", "/results/"),
    ("HEAD", "/results/"),
    ("GET", "/preview/"),
    ("POST", "/cancel/"),
    ("DELETE", "/gallery/"),
]


@pytest.mark.parametrize(
    "task_id", ["image-", "image-a.b", "image-..", "image-%2e%2e", "image-a%2Fb", "image-" + "a" * 65, "image-a%00", "image-é"]
)
async def test_upstream_is_not_asked_when_an_id_could_be_another_path(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, task_id: str
) -> None:
    for method, path in ONE_TASK:
        reply = await bridge.http.request(method, path + task_id, headers=WITH_KEY)
        assert reply.status_code == 404, path
    assert upstream.requests == []


@PREFIXES
async def test_image_paths_need_a_credential_when_an_upstream_is_set(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, prefix: str
) -> None:
    for method, path in ONE_TASK:
        assert (await bridge.http.request(method, f"{prefix}{path}image-a1")).status_code == 401, path
    assert upstream.requests == []


async def test_image_ids_are_unknown_and_models_unavailable_when_no_upstream_is_set(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects") as bridge:
        for method, path in ONE_TASK:
            reply = await bridge.http.request(method, f"{path}image-a1", headers=WITH_KEY)
            assert reply.status_code == 404, path
            assert method == "HEAD" or reply.json()["detail"]["code"] == "task_not_found"
        assert _code(await bridge.http.post("/generate", headers=WITH_KEY, json=BODY)) == (503, "model_unavailable")


@PREFIXES
async def test_image_is_gone_everywhere_when_it_was_deleted(bridge: BridgeUnderTest, upstream: UpstreamDouble, prefix: str) -> None:
    upstream.add_image("a1")
    reply = await bridge.http.delete(f"{prefix}/gallery/image-a1", headers=WITH_KEY)
    assert (reply.status_code, reply.json()) == (200, {"deleted": True, "id": "image-a1"})
    assert _code(await bridge.http.delete("/gallery/image-a1", headers=WITH_KEY)) == (404, "task_not_found")
    assert _code(await bridge.http.get("/status/image-a1", headers=WITH_KEY)) == (404, "task_not_found")


async def test_image_is_cancelled_when_the_upstream_can(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1", status="processing")
    reply = await bridge.http.post("/cancel/image-a1", headers=WITH_KEY)
    assert (reply.status_code, reply.json()) == (200, {"task_id": "image-a1", "status": "failed"})
    assert _code(await bridge.http.post("/cancel/image-a2", headers=WITH_KEY)) == (404, "task_not_found")


async def test_cancel_is_not_supported_when_the_upstream_has_no_such_path(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.cancels = False
    upstream.add_image("a1", status="processing")
    assert _code(await bridge.http.post("/cancel/image-a1", headers=WITH_KEY)) == (501, "not_supported")
    assert _code(await bridge.http.post("/cancel/image-a2", headers=WITH_KEY)) == (404, "task_not_found")


@PREFIXES
async def test_file_has_ranges_and_validators_of_the_upstream_when_it_is_asked_for(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, prefix: str
) -> None:
    upstream.add_image("a1", content=b"0123456789")
    path = f"{prefix}/results/image-a1"
    whole = await bridge.http.get(path, headers=WITH_KEY)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, b"0123456789", "image/png")
    assert whole.headers["content-disposition"] == 'inline; filename="warmlane-image-a1.png"'
    assert (whole.headers["content-length"], whole.headers["cache-control"]) == ("10", "private, no-cache")
    part = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    other = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=2-4", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, b"0123456789")
    parts = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=0-1,5-6"})
    assert parts.status_code == 206
    assert parts.headers["content-type"].startswith("multipart/byteranges; boundary=")
    past = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=99-"})
    assert _code(past) == (416, "range_not_satisfiable")
    preview = await bridge.http.get(f"{prefix}/preview/image-a1", headers=WITH_KEY)
    assert (preview.content, preview.headers["content-type"]) == (b"preview of a1", "image/jpeg")


@pytest.mark.parametrize("has_head", [True, False])
async def test_head_of_a_file_says_its_length_when_the_upstream_has_get_only_too(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, has_head: bool
) -> None:
    upstream.has_head = has_head
    upstream.add_image("a1", content=b"0123456789")
    reply = await bridge.http.head("/results/image-a1", headers={**WITH_KEY, "Range": "bytes=2-4"})
    assert (reply.status_code, reply.headers["content-length"], reply.content) == (200, "10", b"")
    assert (await bridge.http.head("/results/image-a2", headers=WITH_KEY)).status_code == 404


async def test_304_is_passed_on_when_the_clients_copy_is_good(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.answers["GET", "/results/a1"] = lambda: Response(status_code=304, headers={"ETag": '"v1"'})
    reply = await bridge.http.get("/results/image-a1", headers={**WITH_KEY, "If-None-Match": '"v1"'})
    assert (reply.status_code, reply.headers["etag"], reply.content) == (304, '"v1"', b"")
    assert upstream.requests[-1].header("if-none-match") == '"v1"'


async def test_file_is_not_done_when_the_upstream_says_so(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1", status="processing")
    assert _code(await bridge.http.get("/results/image-a1", headers=WITH_KEY)) == (425, "task_not_done")


@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "image/png; charset=x", ""])
async def test_file_is_of_a_type_without_code_when_the_upstream_says_otherwise(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, media_type: str
) -> None:
    upstream.answers["GET", "/results/a1"] = lambda: Response(b"<script>", headers={"Content-Type": media_type})
    reply = await bridge.http.get("/results/image-a1", headers=WITH_KEY)
    assert reply.headers["content-type"] == ("image/png" if "png" in media_type else "application/octet-stream")
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_piece_is_there_before_the_next_when_a_file_is_passed_on(tmp_path: Path, upstream: UpstreamDouble) -> None:
    async with (
        _served(tmp_path, upstream) as bridge,
        asyncio.timeout(10),
        bridge.http.stream("GET", "/results/image-slow", headers=WITH_KEY) as reply,
    ):
        pieces = reply.aiter_raw()
        for piece in (b"first", b"second"):
            upstream.pieces.put_nowait(piece)
            assert await anext(pieces) == piece
        upstream.pieces.put_nowait(None)
        assert [piece async for piece in pieces] == []


async def test_upstreams_reply_is_closed_when_the_client_leaves(tmp_path: Path, upstream: UpstreamDouble) -> None:
    async with _served(tmp_path, upstream) as bridge, asyncio.timeout(10):
        async with bridge.http.stream("GET", "/results/image-slow", headers=WITH_KEY) as reply:
            upstream.pieces.put_nowait(b"first")
            assert await anext(reply.aiter_raw()) == b"first"
        await upstream.slow_closed.wait()


async def test_connection_breaks_when_the_upstream_stops_in_the_middle_of_a_file(tmp_path: Path, upstream: UpstreamDouble) -> None:
    async with _served(tmp_path, upstream, upstream_timeout_s=0.2) as bridge, asyncio.timeout(10):
        upstream.pieces.put_nowait(b"first")
        with pytest.raises(httpx.RemoteProtocolError):
            await bridge.http.get("/results/image-slow", headers=WITH_KEY)
        await upstream.slow_closed.wait()


async def test_request_is_withdrawn_when_the_client_of_a_held_image_request_leaves(tmp_path: Path, upstream: UpstreamDouble) -> None:
    upstream.hold = asyncio.Event()
    async with _served(tmp_path, upstream) as bridge, asyncio.timeout(10):
        asking = asyncio.create_task(bridge.http.post("/generate", headers=WITH_KEY, json=BODY))
        await upstream.holding.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        # The pool is free again: the next one is answered.
        upstream.hold.set()
        upstream.hold = None
        assert (await bridge.http.post("/generate", headers=WITH_KEY, json=BODY)).status_code == 202


def _served(tmp_path: Path, upstream: UpstreamDouble, **settings: Any) -> Any:
    own = {"image_upstream_url": upstream.url, "image_upstream_key": IMAGE_KEY, "upstream_timeout_s": 5, **settings}
    return served_bridge(tmp_path / "served", **own)


async def test_nothing_of_a_caller_travels_when_requests_are_passed_on(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1")
    secrets = {
        "X-API-Key": KEY,
        "Cookie": "gg_session=token-of-s1; gg_admin_session=admin-token; other=cookie-value",
        "Authorization": "Bearer bearer-value",
        "X-Forwarded-For": "203.0.113.77",
        "X-Real-IP": "203.0.113.78",
        "X-Admin-Key": "admin-key-value",
        "User-Agent": "agent-of-client",
        "Origin": "http://localhost:5173",
        "Referer": "https://referer.example.org/page",
        "X-Custom": "custom-value",
    }
    calls = [*itertools.product([secrets], ONE_TASK[:4])]
    for headers, (method, path) in calls:
        await bridge.http.request(method, f"{path}image-a1?token=query-value", headers=headers)
    for path in ("/gallery?token=query-value", "/models"):
        assert (await bridge.http.get(path, headers=secrets)).status_code == 200
    assert (await bridge.http.post("/generate", headers=secrets, json=BODY)).status_code == 202
    await bridge.http.post("/cancel/image-a1", headers=secrets)
    await bridge.http.delete("/gallery/image-a1", headers=secrets)
    told = "\n".join(one.everything() for one in upstream.requests)
    assert len(upstream.requests) >= 9
    for secret in (KEY, "token-of-s1", "admin-token", "cookie-value", "bearer-value", "203.0.113", "admin-key-value", "-of-client"):
        assert secret not in told, secret
    for secret in ("referer.example", "custom-value", "query-value", "localhost:5173", "upstream_session"):
        assert secret not in told, secret
    names = {name for one in upstream.requests for name, _value in one.headers}
    allowed = {"host", "connection", "accept", "accept-encoding", "user-agent", "x-api-key", "content-type", "content-length"}
    assert names <= allowed
    assert all(one.header("x-api-key") == IMAGE_KEY for one in upstream.requests)


async def test_nothing_of_the_upstreams_headers_reaches_a_client_when_it_answers(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1", content=b"0123456789")
    upstream.error("GET", "/status/a9", 403, envelope("forbidden", f"Not the key; it is {IMAGE_KEY}."))
    for method, path in (*((method, f"{path}image-a1") for method, path in ONE_TASK), ("GET", "/status/image-a9"), ("GET", "/gallery")):
        reply = await bridge.http.request(method, path, headers=WITH_KEY)
        assert not {"set-cookie", "server", "x-debug-key"} & set(reply.headers), path
        assert IMAGE_KEY not in reply.text + str(reply.headers), path
        assert "secret-of-upstream" not in reply.text + str(reply.headers), path


async def test_operator_is_told_without_the_key_when_the_upstream_refuses_ours(tmp_path: Path, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1")
    settings = {"image_upstream_url": upstream.url, "image_upstream_key": "a-wrong-upstream-key"}
    async with running_bridge(tmp_path / "objects", **settings) as bridge:
        with capture_logs() as logs:
            for path in ("/status/image-a1", "/results/image-a1", "/gallery"):
                reply = await bridge.http.get(path, headers=WITH_KEY)
                assert _code(reply) == (503, "service_unavailable")
                assert "key" not in reply.json()["detail"]["detail"].lower()
    told = [one for one in logs if one["event"] == "upstream_refused_our_key"]
    assert (len(told), told[0]["log_level"], told[0]["setting"]) == (3, "error", "WARMLANE_IMAGE_UPSTREAM_KEY")
    assert "a-wrong-upstream-key" not in str(logs)
    assert IMAGE_KEY not in str(logs)


@pytest.mark.parametrize(
    ("status", "content", "headers", "expected"),
    [
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
    ],
)
async def test_error_is_one_of_the_contract_when_the_upstream_answers_with_any(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, status: int, content: Any, headers: dict[str, str], expected: tuple[int, str, str]
) -> None:
    upstream.error("GET", "/status/a1", status, content, **headers)
    reply = await bridge.http.get("/status/image-a1", headers=WITH_KEY)
    assert (*_code(reply), reply.json()["detail"]["detail"]) == expected
    if "Retry-After" in headers:
        assert reply.headers["retry-after"] == headers["Retry-After"]


async def test_numbers_that_are_none_are_null_when_an_upstream_sends_them(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    body = b'{"detail":{"code":"queue_overloaded","detail":"Full.","metadata":{"depth":1e999,"of":[-1e999]}}}'
    upstream.answers["GET", "/status/a1"] = lambda: Response(body, status_code=503)
    reply = await bridge.http.get("/status/image-a1", headers=WITH_KEY)
    assert reply.json()["detail"]["metadata"] == {"depth": None, "of": [None]}


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b'{"status":"done","created_at":"2026-01-01T00:00:00Z","stage_detail":"' + IMAGE_KEY.encode() + b'"}', {}),
        (b'"' + b"x" * (4 * 1024 * 1024) + b'"', {}),
        (b"x", {"Content-Encoding": "gzip"}),
    ],
)
async def test_reply_is_refused_when_it_holds_our_key_or_is_too_large_or_compressed(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, content: bytes, headers: dict[str, str]
) -> None:
    upstream.answers["GET", "/status/a1"] = lambda: Response(content, headers=headers)
    reply = await bridge.http.get("/status/image-a1", headers=WITH_KEY)
    assert _code(reply) == (503, "service_unavailable")
    assert IMAGE_KEY not in reply.text


async def test_everything_is_unavailable_soon_and_videos_go_on_when_the_upstream_hangs(tmp_path: Path, upstream: UpstreamDouble) -> None:
    upstream.hold = asyncio.Event()
    settings = {"image_upstream_url": upstream.url, "image_upstream_key": IMAGE_KEY, "upstream_timeout_s": 0.2}
    async with running_bridge(tmp_path / "objects", **settings) as bridge, asyncio.timeout(20):
        video = bridge.add_done_task()
        images = [asyncio.create_task(bridge.http.get("/status/image-a1", headers=WITH_KEY)) for _ in range(100)]
        await upstream.holding.wait()
        assert (await bridge.http.get(f"/status/{video.task_id}", headers=WITH_KEY)).status_code == 200
        assert (await bridge.http.get("/gallery?type=video", headers=WITH_KEY)).json()["total"] == 1
        listed = await bridge.http.get("/models", headers=WITH_KEY)
        assert [one["id"] for one in listed.json()["models"]] == ["anisora", "phr00t"]
        for reply in await asyncio.gather(*images):
            assert _code(reply) == (503, "service_unavailable")
            assert "retry-after" in reply.headers
        assert _code(await bridge.http.get("/results/image-a1", headers=WITH_KEY)) == (503, "service_unavailable")
        assert _code(await bridge.http.get("/gallery", headers=WITH_KEY)) == (503, "service_unavailable")
        # No connection is lost on the way.
        upstream.hold.set()
        upstream.hold = None
        upstream.add_image("a1")
        replies = await asyncio.gather(*(bridge.http.get("/status/image-a1", headers=WITH_KEY) for _ in range(40)))
        assert {reply.status_code for reply in replies} == {200}


async def test_requests_are_unavailable_when_nobody_listens_upstream(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", image_upstream_url="http://127.0.0.1:1") as bridge:
        assert _code(await bridge.http.post("/generate", headers=WITH_KEY, json=BODY)) == (503, "service_unavailable")
        assert _code(await bridge.http.get("/status/image-a1", headers=WITH_KEY)) == (503, "service_unavailable")


async def test_models_of_the_upstream_stand_behind_ours_when_it_answers(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    replies = await asyncio.gather(*(bridge.http.get("/models", headers=WITH_KEY) for _ in range(5)))
    for reply in replies:
        models = reply.json()["models"]
        assert [one["id"] for one in models] == ["anisora", "phr00t", "pony"]
        assert (models[2]["name"], models[2]["type"], models[2]["default_mode"]) == ("Pony", "image", "txt2img")
        assert set(models[2]) == set(models[0])
    assert len(upstream.came("GET", "/models")) == 1


def _add_both(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> list[str]:
    """Videos and images in turn; the ids, newest first. The upstream's clock has no zone, one has another."""
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    ids = []
    for number in range(7):
        video_id = f"{number:032x}"
        task = make_task(video_id, state=TaskState.TASK_STATE_DONE)
        task.created_at.FromDatetime(start + timedelta(minutes=2 * number))
        bridge.admission.tasks[video_id] = task
        made = (start + timedelta(minutes=2 * number + 1)).replace(tzinfo=None)
        upstream.add_image(f"u{number}", created_at=made.isoformat())
        ids += [video_id, f"image-u{number}"]
    return ids[::-1]


@PREFIXES
@pytest.mark.parametrize("per_page", [1, 3, 5, 20])
async def test_gallery_pages_through_both_in_one_order_when_an_upstream_is_set(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, prefix: str, per_page: int
) -> None:
    ids = _add_both(bridge, upstream)
    found = []
    for page in range(1, 15 // per_page + 2):
        reply = (await bridge.http.get(f"{prefix}/gallery?page={page}&per_page={per_page}", headers=bridge.add_session())).json()
        assert (reply["total"], reply["page"], reply["has_more"]) == (14, page, page * per_page < 14)
        found += [item["id"] for item in reply["items"]]
    assert found == ids
    assert all("type=image" in one.query for one in upstream.came("GET", "/gallery"))


async def test_gallery_items_of_images_have_our_fields_when_they_are_listed(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1")
    bridge.add_done_task()
    items = (await bridge.http.get("/gallery", headers=WITH_KEY)).json()["items"]
    image = next(item for item in items if item["id"] == "image-a1")
    assert set(image) == set(next(item for item in items if item is not image))
    assert (image["result_url"], image["preview_url"]) == ("/results/image-a1", "/preview/image-a1")
    # A picture that the upstream keeps among the parameters stays there.
    assert image["parameters"] == {"sampler": "euler"}


@pytest.mark.parametrize(
    ("query", "asks_admission", "asks_upstream", "total"),
    [
        ("type=video", True, False, 7),
        ("model=anisora", True, False, 7),
        ("type=image", False, True, 7),
        ("model=pony", False, True, 7),
        ("model=flux&type=image", False, True, 0),
        ("model=pony&type=video", False, False, 0),
        ("model=anisora&type=image", False, False, 0),
        ("type=song", False, False, 0),
    ],
)
async def test_gallery_asks_one_side_only_when_the_filter_says_which(
    bridge: BridgeUnderTest, upstream: UpstreamDouble, query: str, asks_admission: bool, asks_upstream: bool, total: int
) -> None:
    _add_both(bridge, upstream)
    reply = await bridge.http.get(f"/gallery?{query}&per_page=3", headers=WITH_KEY)
    assert (reply.status_code, reply.json()["total"], len(reply.json()["items"])) == (200, total, min(3, total))
    assert (bool(bridge.admission.listed), bool(upstream.requests)) == (asks_admission, asks_upstream)


async def test_page_keeps_its_other_items_when_one_of_the_upstream_has_no_id(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    ids = _add_both(bridge, upstream)
    upstream.images["u6"].update(id="../../etc", width="wide", parameters=None)
    reply = (await bridge.http.get("/gallery?per_page=4", headers=WITH_KEY)).json()
    assert [item["id"] for item in reply["items"]] == ids[1:4]


async def test_task_is_its_sessions_alone_when_the_gallery_is_private(tmp_path: Path, upstream: UpstreamDouble) -> None:
    settings = {"image_upstream_url": upstream.url, "image_upstream_key": IMAGE_KEY, "gallery_private": True}
    async with running_bridge(tmp_path / "objects", **settings) as bridge:
        mine, other = bridge.add_session(session_id="s1"), bridge.add_session(session_id="s2")
        task_id = (await bridge.http.post("/generate", headers=mine, json=BODY)).json()["task_id"]
        upstream.images["up-0000"]["status"] = "done"
        seen = await bridge.http.get(f"/status/{task_id}", headers=mine)
        assert (seen.status_code, seen.json()["task_id"], seen.json()["result_url"]) == (200, task_id, f"/results/{task_id}")
        assert (await bridge.http.get(f"/results/{task_id}", headers=mine)).status_code == 200
        assert (await bridge.http.get(f"/status/{task_id}", headers=WITH_KEY)).status_code == 200
        upstream.requests.clear()
        for sent in (task_id, "image-up-0000", task_id[:-1] + ("A" if task_id[-1] != "A" else "B")):
            for method, path in ONE_TASK:
                assert (await bridge.http.request(method, path + sent, headers=other)).status_code == 404, (path, sent)
        assert (await bridge.http.get("/status/image-up-0000", headers=mine)).status_code == 404
        assert (await bridge.http.get("/gallery", headers=mine)).json()["items"] == []
        assert upstream.requests == []
        assert [item["id"] for item in (await bridge.http.get("/gallery", headers=WITH_KEY)).json()["items"]] == ["image-up-0000"]
        assert (await bridge.http.delete(f"/gallery/{task_id}", headers=mine)).json() == {"deleted": True, "id": task_id}


async def test_request_schema_describes_images_when_the_documentation_is_read(bridge: BridgeUnderTest) -> None:
    post = (await bridge.http.get("/openapi.json")).json()["paths"]["/generate"]["post"]
    schemas = post["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    [image] = [schema for schema in schemas if schema["properties"]["model"]["enum"] == ["pony", "flux"]]
    assert {"reference_image", "clip_skip", "sampler", "prompt"} <= set(image["properties"])


async def test_picture_is_not_decoded_here_when_it_is_the_upstreams(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for picture in (data_uri(png()), data_uri(b"not a picture")):
        body = {**BODY, "mode": "img2img", "reference_image": picture}
        assert (await bridge.http.post("/generate", headers=WITH_KEY, json=body)).status_code == 202
    assert bridge.stored_inputs() == []
