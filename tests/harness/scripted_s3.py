"""A server that speaks as much S3 as one object needs, and misbehaves on demand: slow, stuck, or gone in the middle of a file."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import formatdate
from http import HTTPStatus

from obstore.store import S3Store

_RANGE = re.compile(rb"range: bytes=(\d+)-(\d*)", re.IGNORECASE)
_PIECE_BYTES = 64 * 1024


@dataclass
class ScriptedS3:
    """What it does, and what it saw.

    Attributes:
        size_bytes: of every object; all zeros.
        stops_after: bytes of a body after which it sends no more, and keeps the connection; None: all are sent.
        breaks_after: bytes of a body after which it hangs up.
        status: of every reply instead of a file.
        code: S3's name of that error.
        asked: method and path of every request, in order.
        sent_bytes: of bodies.
        open_connections: those that are open now.
        closed: set when a connection was closed by the client in the middle of a body.
    """

    size_bytes: int = 1000
    stops_after: int | None = None
    breaks_after: int | None = None
    status: int = 200
    code: str = ""
    asked: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    open_connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    def store(self) -> S3Store:
        """A client of it that gives up soon."""
        return S3Store(
            "clips",
            config={"endpoint": f"http://127.0.0.1:{self.port}", "skip_signature": True, "region": "us-east-1"},
            client_options={"allow_http": True, "timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=2)},
            retry_config={
                "max_retries": 0,
                "retry_timeout": timedelta(milliseconds=500),
                "backoff": {"init_backoff": timedelta(milliseconds=10), "max_backoff": timedelta(milliseconds=20), "base": 2},
            },
        )

    def environment(self) -> dict[str, str]:
        """How a process finds it, by the usual variables."""
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_SKIP_SIGNATURE": "true", "AWS_REGION": "us-east-1"}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open_connections += 1
        try:
            while head := await _head(reader):
                await self._answer(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed.set()
        finally:
            self.open_connections -= 1
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path = head.split(b" ", 2)[:2]
        self.asked.append(f"{method.decode()} {path.decode()}")
        if self.status != HTTPStatus.OK:
            body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
            writer.write(f"HTTP/1.1 {self.status} No\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            return
        start, end, line = 0, self.size_bytes, "200 OK"
        described = f'ETag: "1"\r\nLast-Modified: {formatdate(0, usegmt=True)}\r\n'
        if asked := _RANGE.search(head):
            start, end = int(asked[1]), min(self.size_bytes, int(asked[2]) + 1 if asked[2] else self.size_bytes)
            line, described = "206 Partial Content", described + f"Content-Range: bytes {start}-{end - 1}/{self.size_bytes}\r\n"
        writer.write(f"HTTP/1.1 {line}\r\nContent-Length: {end - start}\r\n{described}\r\n".encode())
        if method == b"HEAD":
            await writer.drain()
            return
        await self._body(end - start, reader, writer)

    async def _body(self, length: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        limits = [limit for limit in (self.stops_after, self.breaks_after) if limit is not None]
        while sent < min([length, *limits]):
            piece = min(_PIECE_BYTES, length - sent)
            writer.write(bytes(piece))
            await writer.drain()
            sent += piece
            self.sent_bytes += piece
        if sent >= length:
            return
        if self.breaks_after is None and not await reader.read(1):
            self.closed.set()
        raise ConnectionResetError


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def scripted_s3(**script: int | str | None) -> AsyncIterator[ScriptedS3]:
    """Serves on a free port."""
    s3 = ScriptedS3(**script)  # type: ignore[arg-type]
    server = await asyncio.start_server(s3.serve, "127.0.0.1", 0)
    s3.port = server.sockets[0].getsockname()[1]
    try:
        yield s3
    finally:
        server.close()
