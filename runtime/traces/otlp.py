"""Sends spans to a collector over HTTP, as OTLP says."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runtime.traces.encoding import Encoder
from runtime.traces.outbox import Answer, Sent

if TYPE_CHECKING:
    from runtime.traces.tracer import Span, Value

# What the protocol names as worth another try.
_LATER = frozenset({429, 502, 503, 504})
_TAKEN = range(200, 300)
# Nobody reads what a collector has to say; it is taken off the line so that the connection can be used again.
_MAX_REPLY_BYTES = 64 * 1024


class Collector:
    """A collector of OTLP over HTTP, on one connection that is kept. One thread calls it; `close` when it is not used any more.

    Python's own client: a larger one takes five times as long, and every microsecond of that thread is one less for the event loop.
    """

    def __init__(self, url: str, headers: Mapping[str, str], resource: Mapping[str, Value]) -> None:
        """Connects when first used. `resource`: what the process is."""
        parts = urlsplit(url)
        self._path = parts.path
        self._host = parts.hostname or ""
        self._port = parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = {**headers, "content-type": "application/x-protobuf", "user-agent": "warmlane"}
        self._encoder = Encoder(resource)
        self._connection: http.client.HTTPConnection | None = None

    def send(self, spans: Sequence[Span], within_s: float) -> Sent:
        """See `outbox.Send`."""
        try:
            status = self._post_somehow(self._encoder.encode(spans), within_s)
        except (OSError, http.client.HTTPException) as error:
            # What a failure left of the connection is of no use.
            self.close()
            return Sent(answer=Answer.LATER, reason=type(error).__name__)
        except Exception as error:
            # A bug of ours must not end the thread; of its text nobody knows what it quotes.
            self.close()
            return Sent(answer=Answer.NEVER, reason=type(error).__name__)
        if status in _TAKEN:
            return Sent(answer=Answer.TAKEN)
        answer = Answer.LATER if status in _LATER else Answer.NEVER
        return Sent(answer=answer, reason=f"the collector answers {status}")

    def close(self) -> None:
        """Ends the connection; the next `send` makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _post_somehow(self, body: bytes, within_s: float) -> int:
        """A connection that was kept may have ended meanwhile, which is nobody's failure: a fresh one is tried at once."""
        is_fresh = self._connection is None
        try:
            return self._post(body, within_s)
        except (ConnectionError, http.client.HTTPException):
            if is_fresh:
                raise
            self.close()
            return self._post(body, within_s)

    def _post(self, body: bytes, within_s: float) -> int:
        connection = self._connected(within_s)
        connection.request("POST", self._path, body=body, headers=self._headers)
        reply = connection.getresponse()
        reply.read(_MAX_REPLY_BYTES)
        if not reply.isclosed():
            self.close()
        return reply.status

    def _connected(self, within_s: float) -> http.client.HTTPConnection:
        connection = self._connection
        if connection is None or connection.sock is None:
            if self._tls is None:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=within_s)
            else:
                connection = http.client.HTTPSConnection(self._host, self._port, timeout=within_s, context=self._tls)
            connection.connect()
            self._connection = connection
        else:
            connection.sock.settimeout(within_s)
        return connection
