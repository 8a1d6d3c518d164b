"""The HTTP server of the bridge: uvicorn's life of a server around connections that are bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import structlog
import uvicorn

from http_bridge.addresses import TrustedProxies
from http_bridge.config import split_bind
from http_bridge.connections import ConnectionLimits, Connections, openable_connections
from http_bridge.handshakes import TlsListener, listening_sockets
from http_bridge.protocol import BoundedProtocol
from runtime.addresses import TAKEN, BindError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from http_bridge.config import BridgeSettings

_LOG = structlog.get_logger()

# Downloads that run get this long to end; then the connection is closed.
_GRACE_S = 10
# Of one connection; a fast line is kept full by it, for it says nothing of what is sent and on its way.
_UNSENT_BYTES = 128 * 1024


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers (it would end the process by the signal, and this one ends with exit code 0) and with bounded
    connections.

    Attributes:
        listening: set once it listens.
        connections: the open ones.
    """

    def __init__(self, config: uvicorn.Config, connections: Connections, on_refused: Callable[[str], None]) -> None:
        """Prepares the server; `serve` runs it."""
        super().__init__(config)
        self.listening = asyncio.Event()
        self.connections = connections
        self._on_refused = on_refused

    @property
    def port(self) -> int:
        """The port it listens on, once it has started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where. Raises BindError when it cannot."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(uvicorn.config.STARTUP_FAILURE)
        config = self.config
        try:
            server = await self._server()
        except OSError as error:
            await self.lifespan.shutdown()
            raise BindError(f"{config.host}:{config.port}", TAKEN) from error
        for listener in server.sockets:
            # Every connection inherits it. What the kernel holds unsent stays small: a reader's progress shows, and memory is bounded.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        self.servers = [server]
        self.started = True
        self.listening.set()
        _LOG.info("http_serving", host=config.host, port=self.port, scheme="https" if config.ssl else "http")

    async def _server(self) -> asyncio.Server:
        host, port, backlog = self.config.host, self.config.port, self.config.backlog
        if self.config.ssl is None:
            return await asyncio.get_running_loop().create_server(self._connection, host, port, backlog=backlog)
        sockets = await asyncio.to_thread(listening_sockets, host, port, backlog)
        listener = TlsListener(sockets, self.config.ssl, connections=self.connections, make=self._connection, on_refused=self._on_refused)
        # It has what uvicorn uses of one.
        return cast("asyncio.Server", listener)

    def _connection(self, place: str | None = None) -> BoundedProtocol:
        return BoundedProtocol(
            self.config, self.server_state, self.lifespan.state, connections=self.connections, place=place, on_refused=self._on_refused
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield


def connection_limits(settings: BridgeSettings) -> ConnectionLimits:
    """The limits that the settings ask for, as far as this process may have files for them."""
    limits = ConnectionLimits(
        head_bytes=settings.max_header_bytes,
        head_s=settings.header_timeout_s,
        write_s=settings.write_timeout_s,
        at_once=openable_connections(settings.max_connections),
        at_once_per_address=settings.max_connections_per_address,
    )
    if limits.at_once < settings.max_connections:
        _LOG.warning("few_open_files_allowed", max_connections=limits.at_once, wanted=settings.max_connections)
    return limits


def http_server(
    app: ASGIApp, settings: BridgeSettings, *, spares_loopback: bool = True, on_refused: Callable[[str], None] = lambda _reason: None
) -> HttpServer:
    """A server for the application, on `http_bind`; port 0 picks a free one."""
    limits = connection_limits(settings)
    host, port = split_bind(settings.http_bind)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Ours does it, for the proxies of the settings and no others; uvicorn's would believe whoever sits on this machine.
        proxy_headers=False,
        ssl_certfile=settings.http_tls_cert_file,
        ssl_keyfile=settings.http_tls_key_file,
        timeout_keep_alive=round(limits.idle_s),
        timeout_graceful_shutdown=_GRACE_S,
    )
    connections = Connections(limits, TrustedProxies(settings.trusted_proxies), spares_loopback=spares_loopback)
    return HttpServer(config, connections, on_refused)
