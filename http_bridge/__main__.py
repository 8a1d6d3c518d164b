"""The process `http-bridge`: settings in, HTTP out, clean end on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import ValidationError

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from http_bridge.config import BridgeSettings, split_bind
from http_bridge.metrics import HttpMetrics
from runtime.addresses import BindError
from runtime.logs import configure_logging
from runtime.metrics.registry import Registry
from runtime.metrics.server import MetricsServer
from runtime.objects import open_object_store
from runtime.process import stop_event
from runtime.settings import problems

_LOG = structlog.get_logger()

# Downloads that run get this long to end; then the connection is closed.
_GRACE_S = 10


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would end the process by the signal, and this one ends with exit code 0.

    Attributes:
        listening: set once it listens.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        """Prepares the server; `serve` runs it."""
        super().__init__(config)
        self.listening = asyncio.Event()

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where."""
        await super().startup(sockets)
        if self.started:
            self.listening.set()
            _LOG.info("http_serving", host=self.config.host, port=self.port)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


def http_server(app: FastAPI, bind: str) -> HttpServer:
    """A server for the application on `host:port`; port 0 picks a free one."""
    host, port = split_bind(bind)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return HttpServer(config)


async def serve(settings: BridgeSettings) -> None:
    """Serves until SIGTERM or SIGINT; requests that run are ended, held ones are told to come again."""
    stop = stop_event()
    registry = Registry("http-bridge")
    metrics = HttpMetrics(registry) if settings.metrics_bind else None
    client = AdmissionClient(settings.admission_address, credentials=settings.admission_credentials())
    app = create_app(settings, client, open_object_store(settings.object_store_url), metrics)
    server = http_server(app, settings.http_bind)
    async with MetricsServer(settings.metrics_bind, registry):
        stopper = asyncio.create_task(_stop_when(stop, app, server), name="stop-server")
        try:
            await server.serve()
        finally:
            stopper.cancel()
            await asyncio.gather(stopper, return_exceptions=True)
    _LOG.info("http_stopped")


async def _stop_when(stop: asyncio.Event, app: FastAPI, server: HttpServer) -> None:
    await stop.wait()
    _LOG.info("http_stopping")
    app.state.bridge.stopping.set()
    server.should_exit = True


def main() -> None:
    """Reads the settings and runs the process."""
    try:
        settings = BridgeSettings()
    except ValidationError as error:
        sys.stderr.writelines(f"http-bridge: {problem}\n" for problem in problems(error))
        raise SystemExit(2) from None
    configure_logging(settings, process="http-bridge")
    if settings.api_key is None:
        _LOG.warning("api_key_missing", setting="WARMLANE_API_KEY", serves_everyone=settings.allow_unauthenticated)
    _LOG.info("http_starting", bind=settings.http_bind, admission=settings.admission_address)
    try:
        uvloop.run(serve(settings))
    except BindError as error:
        _LOG.error("cannot_listen", reason=str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
