"""Serves an ASGI application on a free port, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_PATIENCE_S = 20.0


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves signals alone."""

    listening: asyncio.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def threaded_http(app: ASGIApp, **options: str) -> Iterator[str]:
    """Its base URL. `options` are uvicorn's, such as files of certificates."""
    started: Future[_Server] = Future()

    async def serve() -> None:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None, log_level="warning", ws="none", **options)  # type: ignore[arg-type]  # all of its options are texts here
        server = _Server(config)
        server.listening = asyncio.Event()
        serving = asyncio.create_task(server.serve(), name="http-server")
        async with asyncio.timeout(_PATIENCE_S):
            await server.listening.wait()
        started.set_result(server)
        await serving

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="threaded-http", daemon=True)
    thread.start()
    server = started.result(_PATIENCE_S)
    try:
        yield f"{'https' if options else 'http'}://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_PATIENCE_S)
