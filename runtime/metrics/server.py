"""The HTTP server of `/metrics`: on the event loop of the process, beside its work and never in its way."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from runtime.addresses import TAKEN, BindError, check_free, split_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_log = structlog.get_logger()

_PATH = "/metrics"
# Scrapers send a few hundred bytes at once and take the answer as it comes; who is slower is somebody else.
_MAX_HEAD_BYTES = 16 * 1024
_PATIENCE_S = 10.0
_AT_ONCE = 8


class MetricsServer:
    """Answers GET and HEAD of `/metrics` with the registry's metrics in Prometheus's text format. One event loop owns it.

    Use as an async context manager, or `start` and `stop`. With an empty address it does nothing.
    """

    def __init__(self, bind: str, registry: CollectorRegistry) -> None:
        """Prepares it; it listens from `start` on, at `host:port`; port 0 picks a free one."""
        self._bind = bind
        self._registry = registry
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> MetricsServer:
        """Starts it."""
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stops it."""
        await self.stop()

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listens. Raises BindError when the port is taken."""
        if not self._bind:
            return
        check_free(self._bind)
        host, port = split_address(self._bind)
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=_MAX_HEAD_BYTES)
        except OSError as error:
            raise BindError(self._bind, TAKEN) from error
        _log.info("metrics_listening", port=self.port)

    async def stop(self) -> None:
        """Listens no more and ends what it answers. May be called twice, and before `start`."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= _AT_ONCE:
            # Each answer takes the process some milliseconds of work: a flood must not become its work.
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="metrics-request")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer, and the connection is over."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        except Exception:
            # A collector that fails must not look like an empty page.
            _log.exception("metrics_failed")
            writer.write(_response(HTTPStatus.INTERNAL_SERVER_ERROR))
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, protocol = rest.partition(b" ")
        if not protocol.startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        if target.partition(b"?")[0] != _PATH.encode():
            return _response(HTTPStatus.NOT_FOUND)
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED)
        return _response(HTTPStatus.OK, await self._page(), with_body=method == b"GET")

    async def _page(self) -> bytes:
        """All metrics. What else the process does goes on between two of them: the whole takes it several milliseconds."""
        parts = []
        for family in self._registry.collect():
            parts.append(generate_latest(_One(family)))
            await asyncio.sleep(0)
        return b"".join(parts)


class _One:
    """A collector of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _response(status: HTTPStatus, page: bytes | None = None, *, with_body: bool = True) -> bytes:
    body = f"{status.phrase}\n".encode() if page is None else page
    kind = "text/plain; charset=utf-8" if page is None else CONTENT_TYPE_PLAIN_0_0_4
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (body if with_body else b"")
