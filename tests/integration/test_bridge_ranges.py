"""How players and downloads read a result: several parts, seeking, leaving in the middle, and a store that fails meanwhile."""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.harness.bridge import DONE_ID, WITH_KEY, BridgeUnderTest, running_bridge, served_bridge
from tests.harness.scripted_s3 import ScriptedS3, scripted_s3

CONTENT = hashlib.shake_128(b"a clip").digest(100_000)
ETAG = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
_PATIENCE_S = 10.0


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects") as bridge:
        bridge.add_done_task(CONTENT)
        yield bridge


async def _asked(bridge: BridgeUnderTest, header: str, path: str = "results", **headers: str) -> httpx.Response:
    return await bridge.http.get(f"/{path}/{DONE_ID}", headers={**WITH_KEY, "Range": header, **headers})


def _parts(reply: httpx.Response) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part, read by the standard library's reader of such messages."""
    head = f"Content-Type: {reply.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + reply.content, _class=EmailMessage, policy=email.policy.HTTP)
    parts = []
    for part in message.iter_parts():
        assert part["Content-Type"] == "video/mp4"
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts.append((str(part["Content-Range"]), content))
    return parts


async def test_parts_are_sent_in_one_reply_when_several_ranges_are_asked(bridge: BridgeUnderTest) -> None:
    reply = await _asked(bridge, "bytes=90000-90009,0-99,-5")
    assert (reply.status_code, reply.headers["Content-Length"]) == (206, str(len(reply.content)))
    assert "Content-Range" not in reply.headers
    assert _parts(reply) == [
        ("bytes 90000-90009/100000", CONTENT[90_000:90_010]),
        ("bytes 0-99/100000", CONTENT[:100]),
        ("bytes 99995-99999/100000", CONTENT[-5:]),
    ]


async def test_one_part_is_sent_plainly_when_only_one_range_is_inside(bridge: BridgeUnderTest) -> None:
    reply = await _asked(bridge, "bytes=200000-,5-9")
    assert (reply.status_code, reply.content, reply.headers["Content-Range"]) == (206, CONTENT[5:10], "bytes 5-9/100000")
    assert reply.headers["Content-Type"] == "video/mp4"


async def test_whole_file_is_sent_when_too_many_parts_are_asked(bridge: BridgeUnderTest) -> None:
    reply = await _asked(bridge, "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 100_000, 1000)))
    assert (reply.status_code, reply.content) == (200, CONTENT)


async def test_size_is_told_when_every_range_is_outside(bridge: BridgeUnderTest) -> None:
    reply = await _asked(bridge, "bytes=100000-,200000-300000")
    assert (reply.status_code, reply.headers["Content-Range"]) == (416, "bytes */100000")


async def test_preview_has_ranges_when_they_are_asked(bridge: BridgeUnderTest) -> None:
    reply = await _asked(bridge, "bytes=0-3", "preview")
    assert (reply.status_code, reply.content, reply.headers["Content-Range"]) == (206, b"jpeg", "bytes 0-3/10")
    assert (reply.headers["Content-Type"], reply.headers["Accept-Ranges"]) == ("image/jpeg", "bytes")
    assert (await _asked(bridge, "bytes=10-", "preview")).headers["Content-Range"] == "bytes */10"


@pytest.mark.parametrize(("query", "kind"), [("", "inline"), ("?download=1", "attachment"), ("?download=false", "inline")])
@pytest.mark.parametrize(("path", "extension"), [("results", "mp4"), ("preview", "jpg")])
async def test_name_says_whether_to_save_when_download_is_asked(
    bridge: BridgeUnderTest, path: str, extension: str, query: str, kind: str
) -> None:
    reply = await bridge.http.get(f"/{path}/{DONE_ID}{query}", headers=WITH_KEY)
    assert reply.headers["Content-Disposition"] == f'{kind}; filename="warmlane-{DONE_ID}.{extension}"'


@pytest.mark.parametrize(("if_match", "status"), [(ETAG, 206), ("*", 206), ('"other"', 412), (f"W/{ETAG}", 412)])
async def test_file_is_refused_when_if_match_names_another(bridge: BridgeUnderTest, if_match: str, status: int) -> None:
    reply = await _asked(bridge, "bytes=0-0", **{"If-Match": if_match})
    assert (reply.status_code, reply.headers["ETag"]) == (status, ETAG)
    if status == 412:
        assert reply.json()["detail"]["code"] == "precondition_failed"


async def test_etag_is_there_when_no_digest_was_recorded(bridge: BridgeUnderTest) -> None:
    bridge.admission.tasks[DONE_ID].result.sha256 = ""
    etag = (await _asked(bridge, "bytes=0-0")).headers["ETag"]
    assert etag == f'"{DONE_ID}-0-100000"'


async def test_no_header_breaks_the_server_when_it_is_anything(bridge: BridgeUnderTest) -> None:
    loop = asyncio.get_running_loop()
    printable = st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n\0"))
    values = printable | st.from_regex(rb"bytes=[0-9,\- ]{0,40}", fullmatch=True)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(name=st.sampled_from([b"Range", b"If-Range", b"If-None-Match", b"If-Match"]), value=values, more=values)
    def check(name: bytes, value: bytes, more: bytes) -> None:
        headers = [(b"X-API-Key", WITH_KEY["X-API-Key"].encode()), (b"Range", more), (name, value)]
        asking = bridge.http.get(f"/results/{DONE_ID}", headers=headers)
        reply = asyncio.run_coroutine_threadsafe(asking, loop).result(_PATIENCE_S)
        assert reply.status_code in (200, 206, 304, 412, 416)
        assert reply.status_code != 200 or reply.content == CONTENT

    await asyncio.to_thread(check)


def _open_files(name: str) -> int:
    """How often this process has a file of that name open."""
    links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return sum(1 for link in links if _target(link).endswith(name))


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        # It happens on the server's side of the socket: there is no event to wait on here.
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _read_first(http: httpx.AsyncClient, header: str, count: int) -> tuple[httpx.Headers, bytes]:
    """The first bytes of a reply; then the connection is closed, as a player does that seeks."""
    content = b""
    async with http.stream("GET", f"/results/{DONE_ID}", headers={**WITH_KEY, "Range": header}) as reply:
        assert reply.status_code == 206
        async for piece in reply.aiter_raw(count):
            content += piece
            if len(content) >= count:
                break
        return reply.headers, content[:count]


async def test_chromium_can_seek_when_it_plays(tmp_path: Path) -> None:
    # It asks for everything, takes the head, leaves, asks for the index at the end, and goes on from wherever the user clicks.
    content = hashlib.shake_128(b"long").digest(8_000_000)
    async with served_bridge(tmp_path / "objects") as bridge:
        bridge.add_done_task(content)
        headers, first = await _read_first(bridge.http, "bytes=0-", 30_000)
        assert (headers["Content-Range"], headers["Accept-Ranges"]) == ("bytes 0-7999999/8000000", "bytes")
        assert first == content[:30_000]
        etag = headers["ETag"]
        for start in (7_900_000, 4_000_000, 123_457):
            reply = bridge.http.build_request(
                "GET",
                f"/results/{DONE_ID}",
                headers={**WITH_KEY, "Range": f"bytes={start}-", "If-Range": etag, "Accept-Encoding": "identity;q=1, *;q=0"},
            )
            got = await bridge.http.send(reply)
            assert got.status_code == 206
            assert got.headers["Content-Range"] == f"bytes {start}-7999999/8000000"
            assert got.content == content[start:]
        await _until(lambda: _open_files("video.mp4") == 0)


async def test_firefox_can_seek_when_it_plays(tmp_path: Path) -> None:
    # It begins without end, breaks off, and fetches pieces with both ends, several at a time on connections of their own.
    content = hashlib.shake_128(b"long").digest(8_000_000)
    async with served_bridge(tmp_path / "objects") as bridge:
        bridge.add_done_task(content)
        await _read_first(bridge.http, "bytes=0-", 1000)
        asked = [(at, at + 32_767) for at in (7_967_232, 0, 4_000_000, 1_000_000)]
        replies = await asyncio.gather(*(_asked(bridge, f"bytes={first}-{last}") for first, last in asked))
        for (first, last), reply in zip(asked, replies, strict=True):
            assert (reply.status_code, reply.headers["Content-Range"]) == (206, f"bytes {first}-{last}/8000000")
            assert reply.content == content[first : last + 1]


async def test_the_file_is_closed_when_the_client_leaves(tmp_path: Path) -> None:
    async with served_bridge(tmp_path / "objects") as bridge:
        bridge.add_done_task(bytes(30_000_000))
        async with bridge.http.stream("GET", f"/results/{DONE_ID}", headers=WITH_KEY) as reply:
            async for _ in reply.aiter_raw(1000):
                break
            assert _open_files("video.mp4") == 1
        await _until(lambda: _open_files("video.mp4") == 0)


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[tuple[BridgeUnderTest, ScriptedS3]]:
    """A bridge over the scripted store, which has a file of 30 MB."""
    async with scripted_s3(size_bytes=30_000_000) as s3, served_bridge(tmp_path / "objects", objects=s3.store()) as bridge:
        bridge.add_done_task(b"").result.size_bytes = s3.size_bytes
        yield bridge, s3


async def test_the_stores_connection_is_closed_when_the_client_leaves_while_it_waits_for_bytes(
    far: tuple[BridgeUnderTest, ScriptedS3],
) -> None:
    bridge, s3 = far
    s3.stops_after = 1_000_000
    async with bridge.http.stream("GET", f"/results/{DONE_ID}", headers=WITH_KEY) as reply:
        async for _ in reply.aiter_raw(1000):
            break
    async with asyncio.timeout(_PATIENCE_S):
        await s3.closed.wait()


async def test_the_store_is_read_no_further_when_the_client_does_not_take_what_it_has(far: tuple[BridgeUnderTest, ScriptedS3]) -> None:
    bridge, s3 = far
    async with bridge.http.stream("GET", f"/results/{DONE_ID}", headers=WITH_KEY):
        await asyncio.sleep(0.5)
        # What is on its way: buffers of four sockets, a chunk or two.
        assert s3.sent_bytes < 20_000_000
    async with asyncio.timeout(_PATIENCE_S):
        await s3.closed.wait()


async def test_the_connection_breaks_when_the_store_fails_in_the_middle(far: tuple[BridgeUnderTest, ScriptedS3]) -> None:
    bridge, s3 = far
    s3.breaks_after = 1_000_000
    with capture_logs() as logs, pytest.raises(httpx.RemoteProtocolError):
        await bridge.http.get(f"/results/{DONE_ID}", headers=WITH_KEY)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["object_store_failed_in_a_file"]
    assert (await bridge.http.get("/health")).status_code == 200


async def test_one_call_of_the_store_is_enough_when_a_part_is_asked(far: tuple[BridgeUnderTest, ScriptedS3]) -> None:
    bridge, s3 = far
    assert len((await _asked(bridge, "bytes=1000-1999")).content) == 1000
    assert [line.split(" ")[0] for line in s3.asked] == ["GET"]


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (404, "NoSuchKey", "result_not_found"),
        (404, "NoSuchBucket", "service_unavailable"),
        (403, "AccessDenied", "service_unavailable"),
        (500, "InternalError", "service_unavailable"),
    ],
)
async def test_the_reason_is_told_when_the_store_refuses(
    far: tuple[BridgeUnderTest, ScriptedS3], status: int, code: str, told: str
) -> None:
    bridge, s3 = far
    s3.status, s3.code = status, code
    reply = await bridge.http.get(f"/results/{DONE_ID}", headers=WITH_KEY)
    assert reply.json()["detail"]["code"] == told
    s3.status = 200
    assert (await bridge.http.get(f"/results/{DONE_ID}", headers={**WITH_KEY, "Range": "bytes=0-0"})).status_code == 206
