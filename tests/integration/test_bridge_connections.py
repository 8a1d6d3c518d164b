"""What a client may do to a connection: raw sockets against the served bridge, on the event loop that it runs on."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.harness.bridge import DONE_ID, KEY, WITH_KEY, BridgeUnderTest, served_bridge

HEAD_BYTES = 1024
SHORT_S = 0.15
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with served_bridge(tmp_path / "objects", max_header_bytes=HEAD_BYTES) as bridge:
        yield bridge


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    """One that waits for nobody for long."""
    async with served_bridge(tmp_path / "objects", header_timeout_s=SHORT_S, write_timeout_s=SHORT_S) as bridge:
        yield bridge


@asynccontextmanager
async def _connected(bridge: BridgeUnderTest, **options: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    assert bridge.server is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.server.port, **options)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()


async def _reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


async def _refusal(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Status and code of a reply in the envelope, after which the connection ends."""
    status, headers, body = await _reply(reader)
    detail = json.loads(body)["detail"]
    assert {"code", "detail", "user_action"} <= set(detail)
    assert (headers["connection"], headers["content-type"], headers["x-content-type-options"]) == ("close", "application/json", "nosniff")
    assert await reader.read() == b""
    return status, detail["code"]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the server tells nobody that a connection is closed
            await asyncio.sleep(0.01)


def _open(bridge: BridgeUnderTest) -> int:
    assert bridge.server is not None
    return bridge.server.connections.count


async def test_requests_are_answered_in_order_when_they_come_at_once_and_one_by_one(bridge: BridgeUnderTest) -> None:
    async with _connected(bridge) as (reader, writer):
        writer.write(HEALTH + HEALTH.replace(b"/health", b"/nothing") + HEALTH[:20])
        assert [(await _reply(reader))[0] for _ in range(2)] == [200, 404]
        writer.write(HEALTH[20:])
        assert (await _reply(reader))[0] == 200
        for _ in range(3):
            writer.write(HEALTH)
            assert (await _reply(reader))[0] == 200


def _head_of(size: int) -> bytes:
    """A request whose first line and headers have this many bytes, counted as the limit is."""
    start = b"GET /health HTTP/1.1\r\n"
    # Counted: the path, and each header with its colon, space and line end.
    name, counted = b"Padding", len(b"/health") + len(b"Host: x\r\n")
    return start + b"Host: x\r\n" + name + b": " + b"x" * (size - counted - len(name) - 4) + b"\r\n\r\n"


async def test_head_is_taken_up_to_the_limit_and_refused_beyond(bridge: BridgeUnderTest) -> None:
    async with _connected(bridge) as (reader, writer):
        writer.write(_head_of(HEAD_BYTES))
        assert (await _reply(reader))[0] == 200
        writer.write(_head_of(HEAD_BYTES + 1))
        assert await _refusal(reader) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /health HTTP/1.1\r\nPadding: " + b"x" * 3000],
        [b"GET /health HTTP/1.1\r\nPadding: ", *[b"x" * 100] * 30],
        [b"GET /" + b"x" * 3000],
        [b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 500],
        [HEALTH + b"GET /health HTTP/1.1\r\nPadding: ", *[b"x" * 600] * 3],
        # Behind the body of a request that is waited for.
        [b"POST /generate HTTP/1.1\r\nX-API-Key: %s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: " % KEY.encode(), *[b"x" * 600] * 3],
    ],
)
async def test_head_is_refused_before_it_ends_when_it_is_over_the_limit(bridge: BridgeUnderTest, pieces: list[bytes]) -> None:
    async with _connected(bridge) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        if pieces[0].startswith(HEALTH):
            assert (await _reply(reader))[0] == 200
        assert await _refusal(reader) == (431, "headers_too_large")
    await _until(lambda: _open(bridge) == 0)


async def test_body_of_many_small_chunks_is_read_when_its_sizes_are_more_than_a_head(bridge: BridgeUnderTest) -> None:
    body = json.dumps({"model": "anisora", "prompt": "a lake " + "x" * 900}).encode()
    async with _connected(bridge) as (reader, writer):
        writer.write(b"POST /generate HTTP/1.1\r\nX-API-Key: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % KEY.encode())
        for byte in range(len(body)):
            writer.write(b"1\r\n" + body[byte : byte + 1] + b"\r\n")
        writer.write(b"0\r\nTrailer: x\r\n\r\n")
        assert (await _reply(reader))[0] == 202
    assert bridge.admission.submitted


@pytest.mark.parametrize("before", [b"", HEALTH])
async def test_client_is_told_when_the_head_does_not_end_in_time(hasty: BridgeUnderTest, before: bytes) -> None:
    async with _connected(hasty) as (reader, writer):
        if before:
            writer.write(before)
            assert (await _reply(reader))[0] == 200
        started_s = time.monotonic()
        # Byte by byte: what comes does not give it more time.
        for byte in HEALTH[:-2]:
            writer.write(bytes([byte]))
            await asyncio.sleep(SHORT_S / 10)
            if reader._buffer:  # type: ignore[attr-defined]
                break
        assert await _refusal(reader) == (408, "request_timeout")
        assert time.monotonic() - started_s > SHORT_S * 0.9


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_connection_is_closed_without_a_word_when_nothing_is_asked(hasty: BridgeUnderTest, sent: bytes) -> None:
    async with _connected(hasty) as (reader, writer):
        writer.write(sent)
        assert await reader.read() == b""
    assert _open(hasty) == 0


@pytest.mark.parametrize(
    "request_line",
    [
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"CONNECT other:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nX-API-Key: %s\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" % KEY.encode(),
    ],
)
async def test_envelope_is_sent_when_it_is_not_http(bridge: BridgeUnderTest, request_line: bytes) -> None:
    async with _connected(bridge) as (reader, writer):
        writer.write(request_line)
        assert await _refusal(reader) == (400, "bad_request")
    assert not bridge.admission.submitted


async def test_reply_comes_before_the_end_when_nonsense_follows_a_request(bridge: BridgeUnderTest) -> None:
    async with _connected(bridge) as (reader, writer):
        writer.write(HEALTH + b"NONSENSE\r\n\r\n")
        status, headers, _ = await _reply(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await reader.read() == b""


async def test_those_that_were_taken_are_answered_when_too_many_requests_wait(bridge: BridgeUnderTest) -> None:
    async with _connected(bridge) as (reader, writer):
        writer.write(HEALTH * 500)
        answered = (await reader.read()).count(b"HTTP/1.1 200 OK")
    # The one in work and those behind it.
    assert answered == 1 + 32


async def test_request_is_answered_in_http_1_when_it_asks_for_another_protocol(bridge: BridgeUnderTest) -> None:
    async with _connected(bridge) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
        assert (await _reply(reader))[0] == 200
        assert await reader.read() == b""


async def _write_on(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 1000)
        await writer.drain()
        await asyncio.sleep(SHORT_S / 20)


async def test_connection_ends_when_a_body_that_nobody_reads_goes_on(hasty: BridgeUnderTest) -> None:
    async with _connected(hasty) as (reader, writer):
        writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert (await _reply(reader))[0] == 401
        # uvloop says it in its own way when the connection is known to be closed already.
        with pytest.raises((ConnectionError, RuntimeError)):
            await _write_on(writer)
    await _until(lambda: _open(hasty) == 0)


async def test_connection_is_refused_when_as_many_are_open_as_may_be(tmp_path: Path) -> None:
    async with served_bridge(tmp_path / "objects", max_connections=1) as bridge:
        async with _connected(bridge) as (first, writer):
            writer.write(HEALTH)
            assert (await _reply(first))[0] == 200
            async with _connected(bridge) as (second, _):
                assert await _refusal(second) == (503, "service_unavailable")
        await _until(lambda: _open(bridge) == 0)
        assert (await bridge.http.get("/health")).status_code == 200


async def test_connection_is_refused_when_its_address_has_as_many_as_it_may(tmp_path: Path) -> None:
    async with (
        served_bridge(tmp_path / "objects", max_connections_per_address=2, spares_loopback=False) as bridge,
        _connected(bridge),
        _connected(bridge),
        _connected(bridge) as (third, _),
    ):
        assert await _refusal(third) == (503, "service_unavailable")


def _slow_socket(bridge: BridgeUnderTest) -> socket.socket:
    """One that takes little at a time."""
    assert bridge.server is not None
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    made.connect(("127.0.0.1", bridge.server.port))
    made.sendall(f"GET /results/{DONE_ID} HTTP/1.1\r\nX-API-Key: {KEY}\r\n\r\n".encode())
    made.setblocking(False)
    return made


async def test_reply_is_cut_when_its_reader_takes_nothing(hasty: BridgeUnderTest) -> None:
    hasty.add_done_task(bytes(16 * 1024 * 1024))
    with _slow_socket(hasty):
        await _until(lambda: _open(hasty) == 1)
        await _until(lambda: _open(hasty) == 0)


async def test_reply_is_whole_when_its_reader_is_slow_but_takes_something(tmp_path: Path) -> None:
    size, patience_s = 6 * 1024 * 1024, 0.4
    async with served_bridge(tmp_path / "objects", write_timeout_s=patience_s) as bridge:
        bridge.add_done_task(bytes(size))
        loop, read_bytes, started_s = asyncio.get_running_loop(), 0, time.monotonic()
        with _slow_socket(bridge) as slow:
            while read_bytes < size and (piece := await loop.sock_recv(slow, 256 * 1024)):
                read_bytes += len(piece)
                # Slower than the time in which a reader that takes nothing is cut, all in all.
                await asyncio.sleep(patience_s * 2 * len(piece) / size)
    assert read_bytes > size
    assert time.monotonic() - started_s > patience_s * 1.5


def _certificate(folder: Path) -> tuple[dict[str, Any], ssl.SSLContext]:
    """Settings of a server with a certificate for this machine, and what a client trusts it with."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    certificate.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"http_tls_cert_file": chain, "http_tls_key_file": key}, context


async def test_https_is_served_when_a_certificate_is_configured(tmp_path: Path) -> None:
    files, context = _certificate(tmp_path)
    async with served_bridge(tmp_path / "objects", **files) as bridge:
        assert bridge.server is not None
        bridge.add_done_task(bytes(1000))
        async with httpx.AsyncClient(verify=context, base_url=f"https://127.0.0.1:{bridge.server.port}") as https:
            reply = await https.get(f"/results/{DONE_ID}", headers=WITH_KEY)
        assert (reply.status_code, len(reply.content)) == (200, 1000)
        assert reply.headers["Strict-Transport-Security"] == "max-age=31536000"
        with pytest.raises(httpx.TransportError):
            await bridge.http.get("/health")


async def test_connections_without_a_handshake_count_when_tls_is_spoken(tmp_path: Path) -> None:
    # They counted nowhere: whoever opened some thousands took every file that the process may open.
    files, context = _certificate(tmp_path)
    async with served_bridge(tmp_path / "objects", max_connections=3, **files) as bridge, AsyncExitStack() as opened:
        assert bridge.server is not None
        silent = [await opened.enter_async_context(_connected(bridge)) for _ in range(3)]
        await _until(lambda: _open(bridge) == 3)
        async with _connected(bridge) as (reader, _):
            assert await reader.read() == b""
        # Nonsense, and a client that leaves, free their places.
        silent[0][1].write(b"GET /health HTTP/1.1\r\n\r\n")
        await silent[0][0].read()
        for _, writer in silent[1:]:
            writer.close()
        await _until(lambda: _open(bridge) == 0)
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", bridge.server.port, ssl=context)
            # Together with the end of the handshake.
            writer.write(HEALTH)
            assert (await _reply(reader))[0] == 200
            writer.close()
        await _until(lambda: _open(bridge) == 0)


# With another request behind it, the one in work did not hear that its client was gone: its held place stayed taken, a stream open.
@pytest.mark.parametrize("behind", [b"", HEALTH, HEALTH * 3], ids=["alone", "one behind it", "three behind it"])
async def test_request_of_a_client_that_left_is_given_up_when_its_connection_breaks(hasty: BridgeUnderTest, behind: bytes) -> None:
    hasty.admission.hold = asyncio.Event()
    body = json.dumps({"model": "anisora", "prompt": "a lake"}).encode()
    async with _connected(hasty) as (_, writer):
        head = b"POST /generate HTTP/1.1\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n" % (KEY.encode(), len(body))
        writer.write(head + body + behind)
        async with asyncio.timeout(5):
            await hasty.admission.holding.wait()
        # A held request is not cut by the time for heads.
        await asyncio.sleep(SHORT_S * 2)
        assert not hasty.admission.given_back.is_set()
    async with asyncio.timeout(5):
        await hasty.admission.given_back.wait()
