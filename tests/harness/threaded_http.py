"""Serves an ASGI application on a free port, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from http_bridge.__main__ import HttpServer

if TYPE_CHECKING:
    from uvicorn._types import ASGIApplication

_PATIENCE_S = 20.0


@contextmanager
def threaded_http(app: ASGIApplication, **options: str) -> Iterator[str]:
    """Its base URL. `options` are uvicorn's, such as files of certificates."""
    started: Future[HttpServer] = Future()

    async def serve() -> None:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None, log_level="warning", ws="none", **options)  # type: ignore[arg-type]  # all of its options are texts here
        server = HttpServer(config)
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
        yield f"{'https' if options else 'http'}://127.0.0.1:{server.port}"
    finally:
        server.should_exit = True
        thread.join(_PATIENCE_S)
