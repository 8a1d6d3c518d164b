"""Files of the image upstream through the bridge: headers both ways, pieces as they come, and who closes what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from tests.harness.bridge import WITH_KEY, BridgeUnderTest, running_bridge, served_bridge
from tests.harness.upstream import IMAGE_BODY, UpstreamDouble, code_of, image_settings, upstream_double


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[UpstreamDouble]:
    async with upstream_double(tmp_path / "upstream") as double:
        yield double


@pytest.fixture
async def bridge(tmp_path: Path, upstream: UpstreamDouble) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects", **image_settings(upstream)) as bridge:
        yield bridge


async def test_file_has_ranges_and_validators_of_the_upstream_when_it_is_asked_for(
    bridge: BridgeUnderTest, upstream: UpstreamDouble
) -> None:
    upstream.add_image("a1", content=b"0123456789")
    path = "/api/results/image-a1"
    whole = await bridge.http.get(path, headers=WITH_KEY)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, b"0123456789", "image/png")
    assert whole.headers["content-disposition"] == 'inline; filename="warmlane-image-a1.png"'
    assert (whole.headers["content-length"], whole.headers["cache-control"]) == ("10", "private, no-cache")
    saved = await bridge.http.get(f"{path}?download=true", headers=WITH_KEY)
    assert saved.headers["content-disposition"] == 'attachment; filename="warmlane-image-a1.png"'
    part = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    other = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=2-4", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, b"0123456789")
    parts = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=0-1,5-6"})
    assert parts.status_code == 206
    assert parts.headers["content-type"].startswith("multipart/byteranges; boundary=")
    past = await bridge.http.get(path, headers={**WITH_KEY, "Range": "bytes=99-"})
    assert code_of(past) == (416, "range_not_satisfiable")
    preview = await bridge.http.get("/preview/image-a1", headers=WITH_KEY)
    assert (preview.content, preview.headers["content-type"]) == (b"preview of a1", "image/jpeg")


async def test_head_of_a_file_says_its_length_when_the_upstream_has_get_only_too(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1", content=b"0123456789")
    for upstream.has_head in (True, False):
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
    assert code_of(await bridge.http.get("/results/image-a1", headers=WITH_KEY)) == (425, "task_not_done")


async def test_file_is_of_a_type_without_code_when_the_upstream_says_otherwise(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for media_type in ("text/html", "image/svg+xml", "image/png; charset=x", "", "multipart/byteranges; boundary=x"):
        upstream.answers["GET", "/results/a1"] = partial(Response, b"<script>", headers={"Content-Type": media_type})
        reply = await bridge.http.get("/results/image-a1", headers=WITH_KEY)
        is_png = "png" in media_type
        assert reply.headers["content-type"] == ("image/png" if is_png else "application/octet-stream")
        assert reply.headers["cross-origin-resource-policy"] == ("cross-origin" if is_png else "same-origin")
        assert reply.headers["x-content-type-options"] == "nosniff"


def _served(tmp_path: Path, upstream: UpstreamDouble, **settings: Any) -> AbstractAsyncContextManager[BridgeUnderTest]:
    return served_bridge(tmp_path / "served", **image_settings(upstream, **settings))


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
        asking = asyncio.create_task(bridge.http.post("/generate", headers=WITH_KEY, json=IMAGE_BODY))
        await upstream.holding.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        # The pool is free again: the next one is answered.
        upstream.hold.set()
        upstream.hold = None
        assert (await bridge.http.post("/generate", headers=WITH_KEY, json=IMAGE_BODY)).status_code == 202


async def test_events_tell_the_status_and_the_end_when_an_image_is_done(tmp_path: Path, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1")
    upstream.add_image("a2", status="failed")
    async with _served(tmp_path, upstream) as bridge:
        reply = await bridge.http.get("/api/events/image-a1", headers=WITH_KEY)
        assert (reply.status_code, reply.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        status, end = [part for part in reply.text.split("\n\n") if part]
        assert status.startswith("event: status\n")
        told = json.loads(next(line for line in status.splitlines() if line.startswith("data: ")).removeprefix("data: "))
        assert told == (await bridge.http.get("/status/image-a1", headers=WITH_KEY)).json()
        assert end.splitlines() == ["event: end", 'data: {"task_id":"image-a1","reason":"done"}', "id: 1-end"]
        again = await bridge.http.get("/events/image-a1", headers={**WITH_KEY, "Last-Event-ID": "1-end"})
        assert again.status_code == 204
        assert '"reason":"failed"' in (await bridge.http.get("/events/image-a2", headers=WITH_KEY)).text
        assert code_of(await bridge.http.get("/events/image-a3", headers=WITH_KEY)) == (404, "task_not_found")
        assert (await bridge.http.get("/events/image-a1")).status_code == 401


async def test_polling_ends_when_the_reader_of_events_leaves(tmp_path: Path, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1", status="processing")
    async with _served(tmp_path, upstream) as bridge, asyncio.timeout(10):
        streams = bridge.app.state.bridge.event_streams
        async with bridge.http.stream("GET", "/events/image-a1", headers=WITH_KEY) as reply:
            assert "event: status" in await anext(reply.aiter_text())
            assert len(streams) == 1
        while len(streams):  # noqa: ASYNC110 - the bridge tells nobody
            await asyncio.sleep(0.01)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "poll-image"]


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 30\r\nTransfer-Encoding: chunked\r\n", b'ETag: "\x01"\r\nTransfer-Encoding: chunked\r\n'],
    ids=["two lengths", "a header that cannot be sent"],
)
async def test_file_is_whole_when_the_upstreams_headers_are_not_sound(tmp_path: Path, head: bytes) -> None:
    # The first broke the client's connection behind a good file, the second before it began.
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nConnection: close\r\n%s\r\n5\r\nabcde\r\n0\r\n\r\n" % head)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with served_bridge(tmp_path / "objects", image_upstream_url=url) as bridge:
            reply = await bridge.http.get("/results/image-a1", headers=WITH_KEY)
            assert (reply.status_code, reply.content) == (200, b"abcde")
            assert not {"etag", "content-length"} & set(reply.headers)
