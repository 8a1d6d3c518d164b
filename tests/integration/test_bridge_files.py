"""GET and HEAD of /results and /preview, over a local object store."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from warmlane.admission.v1.task_pb2 import TaskState

from tests.harness.admission_double import admission_double, make_task
from tests.harness.bridge import DONE_ID, KEY, WITH_KEY, BridgeUnderTest, running_bridge, served_bridge

CONTENT = b"0123456789"
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects") as bridge:
        bridge.add_done_task(CONTENT)
        yield bridge


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_whole_file_is_sent_when_no_range_is_asked(bridge: BridgeUnderTest, prefix: str) -> None:
    reply = await bridge.http.get(f"{prefix}/results/{DONE_ID}", headers=bridge.add_session())
    assert (reply.status_code, reply.content) == (200, CONTENT)
    assert reply.headers["Content-Type"] == "video/mp4"
    assert reply.headers["Content-Length"] == "10"
    assert reply.headers["ETag"] == ETAG
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.headers["Content-Disposition"] == f'inline; filename="warmlane-{DONE_ID}.mp4"'
    assert reply.headers["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("asked", "content", "told"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=6-", b"6789", "bytes 6-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ],
)
async def test_part_is_sent_when_a_range_is_asked(bridge: BridgeUnderTest, asked: str, content: bytes, told: str) -> None:
    reply = await bridge.http.get(f"/results/{DONE_ID}", headers={**WITH_KEY, "Range": asked})
    assert (reply.status_code, reply.content, reply.headers["Content-Range"]) == (206, content, told)
    assert reply.headers["Content-Length"] == str(len(content))
    assert (reply.headers["ETag"], reply.headers["Content-Type"]) == (ETAG, "video/mp4")


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0"])
async def test_size_is_told_when_the_range_is_outside(bridge: BridgeUnderTest, asked: str) -> None:
    reply = await bridge.http.get(f"/results/{DONE_ID}", headers={**WITH_KEY, "Range": asked})
    assert (reply.status_code, reply.headers["Content-Range"]) == (416, "bytes */10")
    assert reply.json()["detail"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    ("if_range", "status"), [(ETAG, 206), ('"other"', 200), (f"W/{ETAG}", 200), ("Wed, 21 Oct 2026 07:28:00 GMT", 200)]
)
async def test_part_is_sent_only_when_if_range_names_this_file(bridge: BridgeUnderTest, if_range: str, status: int) -> None:
    reply = await bridge.http.get(f"/results/{DONE_ID}", headers={**WITH_KEY, "Range": "bytes=0-0", "If-Range": if_range})
    assert reply.status_code == status


@pytest.mark.parametrize("path", ["results", "preview"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_nothing_is_sent_when_the_clients_copy_is_good(bridge: BridgeUnderTest, method: str, path: str) -> None:
    etag = (await bridge.http.get(f"/{path}/{DONE_ID}", headers=WITH_KEY)).headers["ETag"]
    reply = await bridge.http.request(method, f"/{path}/{DONE_ID}", headers={**WITH_KEY, "If-None-Match": etag, "Range": "bytes=99-"})
    assert (reply.status_code, reply.content, reply.headers["ETag"]) == (304, b"", etag)


async def test_head_has_the_headers_of_get_when_asked(bridge: BridgeUnderTest) -> None:
    for path in (f"/results/{DONE_ID}", f"/preview/{DONE_ID}"):
        whole = await bridge.http.get(path, headers=WITH_KEY)
        head = await bridge.http.head(path, headers={**WITH_KEY, "Range": "bytes=0-0"})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers == whole.headers


async def test_type_and_name_are_webm_when_the_file_is(bridge: BridgeUnderTest) -> None:
    bridge.add_done_task().result.media_type = "video/webm"
    reply = await bridge.http.get(f"/results/{DONE_ID}", headers=WITH_KEY)
    assert reply.headers["Content-Type"] == "video/webm"
    assert reply.headers["Content-Disposition"].endswith('.webm"')


async def test_preview_is_a_jpeg_when_the_task_is_done(bridge: BridgeUnderTest) -> None:
    reply = await bridge.http.get(f"/api/preview/{DONE_ID}", headers=WITH_KEY)
    assert (reply.status_code, reply.content, reply.headers["Content-Type"]) == (200, b"jpeg bytes", "image/jpeg")


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [
        ("QUEUED", 425, "task_not_done"),
        ("LEASED", 425, "task_not_done"),
        ("FAILED", 404, "result_not_found"),
        ("CANCELLED", 404, "result_not_found"),
    ],
)
async def test_result_is_refused_when_the_task_is_not_done(bridge: BridgeUnderTest, state: str, status: int, code: str) -> None:
    bridge.admission.tasks["a"] = make_task("a", state=TaskState.Value(f"TASK_STATE_{state}"))
    reply = await bridge.http.get("/results/a", headers=WITH_KEY)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (status, code)
    assert (await bridge.http.get("/preview/a", headers=WITH_KEY)).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_file_is_not_found_when_it_is_gone_from_the_store(bridge: BridgeUnderTest, method: str) -> None:
    for path in bridge.folder.rglob("*.*"):
        path.unlink()
    for path_of in ("results", "preview"):
        assert (await bridge.http.request(method, f"/{path_of}/{DONE_ID}", headers=WITH_KEY)).status_code == 404


async def test_error_is_told_when_the_stored_file_is_not_the_recorded_one(bridge: BridgeUnderTest) -> None:
    (bridge.folder / bridge.admission.tasks[DONE_ID].result.video_key).write_bytes(b"short")
    reply = await bridge.http.get(f"/results/{DONE_ID}", headers=WITH_KEY)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (500, "internal")


async def test_large_file_arrives_whole_and_in_parts_when_a_real_server_sends_it(tmp_path: Path) -> None:
    content = hashlib.shake_128(b"video").digest(3_000_001)
    async with served_bridge(tmp_path / "objects") as bridge:
        bridge.add_done_task(content)
        whole = await bridge.http.get(f"/results/{DONE_ID}", headers=WITH_KEY)
        part = await bridge.http.get(f"/results/{DONE_ID}", headers={**WITH_KEY, "Range": "bytes=1000000-2999999"})
    assert whole.content == content
    assert part.content == content[1_000_000:3_000_000]


async def test_server_serves_on_when_a_client_leaves_in_the_middle_of_a_file(tmp_path: Path) -> None:
    async with served_bridge(tmp_path / "objects") as bridge:
        bridge.add_done_task(bytes(20_000_000))
        async with bridge.http.stream("GET", f"/results/{DONE_ID}", headers=WITH_KEY) as reply:
            async for _ in reply.aiter_raw(1000):
                break
        assert (await bridge.http.get("/health")).status_code == 200


async def test_process_ends_with_code_0_when_it_is_told_to_stop_after_serving(tmp_path: Path) -> None:
    async with admission_double() as (_, address), asyncio.timeout(60):
        environment = {
            **os.environ,
            "WARMLANE_HTTP_BIND": "127.0.0.1:0",
            "WARMLANE_METRICS_BIND": "127.0.0.1:0",
            "WARMLANE_ADMISSION_ADDRESS": address,
            "WARMLANE_API_KEY": KEY,
            "WARMLANE_LOG_FORMAT": "json",
            "WARMLANE_OBJECT_STORE_URL": (tmp_path / "objects").as_uri(),
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "http_bridge", env=environment, stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        events = []
        try:
            async for line in process.stderr:
                events.append(json.loads(line))
                if events[-1]["event"] == "http_serving":
                    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{events[-1]['port']}") as http:
                        assert (await http.post("/auth/session")).status_code == 201
                    process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert [event["event"] for event in events] == [
        "http_starting", "metrics_listening", "http_serving", "http_request", "http_stopping", "http_stopped",
    ]  # fmt: skip
    assert KEY not in json.dumps(events)
