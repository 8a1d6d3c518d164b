"""What never passes between callers and the image upstream, and what an upstream that hangs does not hold up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from starlette.responses import Response
from structlog.testing import capture_logs

from tests.harness.bridge import KEY, WITH_KEY, BridgeUnderTest, running_bridge
from tests.harness.upstream import IMAGE_BODY, IMAGE_KEY, ONE_TASK, UpstreamDouble, code_of, envelope, image_settings, upstream_double


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[UpstreamDouble]:
    async with upstream_double(tmp_path / "upstream") as double:
        yield double


@pytest.fixture
async def bridge(tmp_path: Path, upstream: UpstreamDouble) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects", **image_settings(upstream)) as bridge:
        yield bridge


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
    for method, path in ONE_TASK[:4]:
        await bridge.http.request(method, f"{path}image-a1?token=query-value", headers=secrets)
    for path in ("/gallery?token=query-value", "/models"):
        assert (await bridge.http.get(path, headers=secrets)).status_code == 200
    assert (await bridge.http.post("/generate", headers=secrets, json=IMAGE_BODY)).status_code == 202
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
    settings = image_settings(upstream, image_upstream_key="a-wrong-upstream-key")
    async with running_bridge(tmp_path / "objects", **settings) as bridge:
        with capture_logs() as logs:
            for path in ("/status/image-a1", "/results/image-a1", "/gallery"):
                reply = await bridge.http.get(path, headers=WITH_KEY)
                assert code_of(reply) == (503, "service_unavailable")
                assert "key" not in reply.json()["detail"]["detail"].lower()
    told = [one for one in logs if one["event"] == "upstream_refused_our_key"]
    assert (len(told), told[0]["log_level"], told[0]["setting"]) == (3, "error", "WARMLANE_IMAGE_UPSTREAM_KEY")
    assert "a-wrong-upstream-key" not in str(logs)
    assert IMAGE_KEY not in str(logs)


async def test_reply_is_refused_when_it_holds_our_key_or_is_too_large_or_compressed(
    bridge: BridgeUnderTest, upstream: UpstreamDouble
) -> None:
    holds_key = b'{"status":"done","created_at":"2026-01-01T00:00:00Z","stage_detail":"' + IMAGE_KEY.encode() + b'"}'
    for content, headers in ((holds_key, {}), (b'"' + b"x" * (4 * 1024 * 1024) + b'"', {}), (b"x", {"Content-Encoding": "gzip"})):
        upstream.answers["GET", "/status/a1"] = partial(Response, content, headers=headers)
        reply = await bridge.http.get("/status/image-a1", headers=WITH_KEY)
        assert code_of(reply) == (503, "service_unavailable")
        assert IMAGE_KEY not in reply.text


async def test_everything_is_unavailable_soon_and_videos_go_on_when_the_upstream_hangs(tmp_path: Path, upstream: UpstreamDouble) -> None:
    upstream.hold = asyncio.Event()
    async with running_bridge(tmp_path / "objects", **image_settings(upstream, upstream_timeout_s=0.5)) as bridge, asyncio.timeout(60):
        video = bridge.add_done_task()
        images = [asyncio.create_task(bridge.http.get("/status/image-a1", headers=WITH_KEY)) for _ in range(40)]
        await upstream.holding.wait()
        assert (await bridge.http.get(f"/status/{video.task_id}", headers=WITH_KEY)).status_code == 200
        assert (await bridge.http.get("/gallery?type=video", headers=WITH_KEY)).json()["total"] == 1
        listed = await bridge.http.get("/models", headers=WITH_KEY)
        assert [one["id"] for one in listed.json()["models"]] == ["anisora", "phr00t"]
        for reply in await asyncio.gather(*images):
            assert code_of(reply) == (503, "service_unavailable")
            assert "retry-after" in reply.headers
        assert code_of(await bridge.http.get("/results/image-a1", headers=WITH_KEY)) == (503, "service_unavailable")
        assert code_of(await bridge.http.get("/gallery", headers=WITH_KEY)) == (503, "service_unavailable")
        # No connection is lost on the way: as many as before are answered, as soon as the upstream is up to it.
        upstream.hold.set()
        upstream.hold = None
        upstream.add_image("a1")
        while await _statuses(bridge, 40) != {200}:
            pass


async def _statuses(bridge: BridgeUnderTest, number: int) -> set[int]:
    replies = await asyncio.gather(*(bridge.http.get("/status/image-a1", headers=WITH_KEY) for _ in range(number)))
    return {reply.status_code for reply in replies}
