"""Listens where TLS is spoken: each connection takes a place among the open ones before a byte of its handshake is read.

The event loop's own TLS server tells nobody of a connection before its handshake is over: whoever begins none could open as many as the
process may have files.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from http_bridge.connections import Connections
    from http_bridge.protocol import BoundedProtocol

_LOG = structlog.get_logger()

# A browser needs some round trips.
HANDSHAKE_S = 10.0
# Where no file may be opened: until some are closed.
_PAUSE_S = 0.5


class TlsListener:
    """Accepts connections and shakes hands; what uvicorn asks of a server. Belongs to the event loop in which it is made."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        context: ssl.SSLContext,
        *,
        connections: Connections,
        make: Callable[[str], BoundedProtocol],
        on_refused: Callable[[str], None],
    ) -> None:
        """On these sockets, which listen and which it closes. `make` makes the protocol of a connection that has this place."""
        self.sockets = tuple(sockets)
        self._context = context
        self._connections = connections
        self._make = make
        self._on_refused = on_refused
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = [asyncio.create_task(self._accept(listener), name="tls-accept") for listener in self.sockets]

    def close(self) -> None:
        """Accepts nothing more; handshakes that are under way end. May be called twice."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()

    async def wait_closed(self) -> None:
        """Returns when nothing is left of it but connections."""
        await asyncio.gather(*self._accepting, *self._handshakes, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    client, peer = await loop.sock_accept(listener)
                except OSError as error:
                    _LOG.warning("connection_not_accepted", error=error.strerror or type(error).__name__)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                place = self._connections.take(str(peer[0]))
                if place is None:
                    # That could be told after a handshake only, which costs more than the connection.
                    self._on_refused("connections")
                    client.close()
                    continue
                task = asyncio.create_task(self._shake_hands(client, place), name="tls-handshake")
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, client: socket.socket, place: str) -> None:
        protocol = self._make(place)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, client, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
            )
        except OSError as error:
            # ssl.SSLError and TimeoutError are OSErrors. Scanners, and people who mistrust the certificate, are no news.
            _LOG.debug("tls_handshake_failed", error=type(error).__name__)
            self._on_refused("handshake")
        finally:
            protocol.give_up_place()


def listening_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """One for each address of the host; all on one port. Raises OSError."""
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)):
            listener = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # With port 0 the first one picks it.
            chosen = port or (sockets[0].getsockname()[1] if len(sockets) > 1 else 0)
            listener.bind((address[0], chosen, *address[2:]))
            listener.listen(backlog)
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets
