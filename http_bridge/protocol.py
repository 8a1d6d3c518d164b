"""One connection of HTTP/1.1: uvicorn's protocol with bounds on what a client may send, how slowly, and how slowly it may read."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from http_bridge.errors import HttpError
from http_bridge.head_writes import HeadWithBody
from http_bridge.reply_headers import SAFE_HEADERS
from runtime.errors import ErrorCode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from http_bridge.connections import Connections

_LOG = structlog.get_logger()

# Beside name and value, a header costs a colon, a space and the end of its line.
_HEADER_OVERHEAD_BYTES = 4
# A chunk of one byte comes with five others.
_CHUNK_OVERHEAD_FACTOR = 8
# A client that is still writing when its connection closes may never see why: for so long what it writes is read, and thrown away.
_LINGER_S = 2.0
_LOOKS = 2
# Requests that wait behind one in work; each takes memory, and no client that we know sends even one.
_MAX_PIPELINED = 32


class _Reading(enum.Enum):
    """What the next bytes of the client belong to."""

    NOTHING = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class BoundedProtocol(HttpToolsProtocol):
    """Serves one connection.

    Laws: while bytes are due that a client could withhold (a head that has begun or must come, a body that nobody reads) one timer runs;
    while bytes wait to be sent that it could leave there, another. A refusal is written only where no reply is on its way; otherwise the
    connection ends behind that reply.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        connections: Connections,
        place: str | None = None,
        on_refused: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """For a new connection, which may have its place already. `on_refused` is told the code of each refusal, or why it was cut."""
        super().__init__(config=config, server_state=server_state, app_state=app_state)
        self._limits = connections.limits
        self._places = connections
        self._place = place
        self._is_made = False
        # The request that is being answered; others may wait behind it, of which `cycle` is the newest.
        self._in_work: RequestResponseCycle | None = None
        self._on_refused = on_refused
        self._reading = _Reading.NOTHING
        self._begun = 0
        self._taken_bytes = 0
        self._head_bytes = 0
        self._due_bytes = 0
        self._fault: HttpError | None = None
        self._takes_no_more = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a place, or refuses."""
        super().connection_made(transport)
        self._is_made = True
        if self._place is None:
            self._place = self._places.take(self.client[0] if self.client else "")
        if self._place is None:
            self._takes_no_more = True
            self._refuse(HttpError(ErrorCode.SERVICE_UNAVAILABLE, "Too many connections are open."), "connections")
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place back."""
        self._give_back_place()
        self._stop_head_timer()
        self._stop_write_timer()
        # The base leaves it running where the connection broke.
        self._unset_keepalive_if_required()
        # The base tells the newest only, which may be one that waits.
        if self._in_work is not None and not self._in_work.response_complete:
            self._in_work.disconnected = True
            self._in_work.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def give_up_place(self) -> None:
        """The connection will not come about: the place that it had is free. Does nothing once it was made."""
        if not self._is_made:
            self._give_back_place()

    def _give_back_place(self) -> None:
        if self._place is not None:
            self._places.give_back(self._place)
            self._place = None

    # What the client sends.

    def data_received(self, data: bytes) -> None:
        """Reads on, and begins to measure what is not complete."""
        if self._takes_no_more or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        before, self._begun, self._taken_bytes = self._reading, 0, 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing is served here but HTTP/1.1: the request was taken as one, and whatever follows it is not ours to read.
            self._end_behind_reply()
        except httptools.HttpParserError:
            self._refuse_fault(self._fault or HttpError("bad_request", "This is not valid HTTP/1.1."))
        else:
            self._measure(len(data), before)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._reading, self._head_bytes, self._due_bytes = _Reading.HEAD, 0, 0
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """A piece of the request's first line."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; of a chunked body also one behind it, which is nobody's."""
        if self._reading is not _Reading.HEAD:
            return
        super().on_header(name, value)
        self._count_head(len(name) + len(value) + _HEADER_OVERHEAD_BYTES)

    def on_headers_complete(self) -> None:
        """The head is complete: the request begins, or waits for the one before it."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._fault = HttpError("bad_request", f"More than {_MAX_PIPELINED} requests wait on one connection.")
            raise ValueError
        self._stop_head_timer()
        self._reading, self._due_bytes = _Reading.BODY, 0
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._in_work = cycle
        cycle.transport = HeadWithBody(self.transport, self.loop).as_transport()
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._taken_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._reading = _Reading.NOTHING
        super().on_message_complete()

    def _count_head(self, added_bytes: int) -> None:
        self._head_bytes += added_bytes
        if self._head_bytes > self._limits.head_bytes:
            self._fault = self._head_too_large()
            # Ends the parsing: what a callback raises comes out of `feed_data` as an error of the parser.
            raise ValueError

    def _measure(self, received_bytes: int, before: _Reading) -> None:
        """After a piece that the parser took: what of it is still due, and is it too much already?

        The parser tells a header, of the head or behind a chunked body, when it is complete; one that never ends is seen here only. What
        began behind another request in the same piece is let off what was in it.
        """
        began_first = self._begun == 1 and before is _Reading.NOTHING
        if self._reading is _Reading.HEAD and (began_first or not self._begun):
            self._due_bytes += received_bytes
        elif self._reading is _Reading.BODY and before is _Reading.BODY and not self._begun:
            # Sizes of chunks are many where the chunks are small: that much may come with every byte of the body.
            self._due_bytes = max(0, self._due_bytes + received_bytes - self._taken_bytes * (1 + _CHUNK_OVERHEAD_FACTOR))
        if self._due_bytes > self._limits.head_bytes:
            self._refuse_fault(self._head_too_large())
        elif self._reading is _Reading.HEAD or not self._is_replying():
            self._expect_head()

    def _head_too_large(self) -> HttpError:
        limit = self._limits.head_bytes
        return HttpError("headers_too_large", f"The head of the request is over {limit} bytes.", metadata={"max_header_bytes": limit})

    # How long it may take.

    def _expect_head(self) -> None:
        """The timer runs from the first moment on; nothing but the end of the head stops it."""
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self._limits.head_s, self._on_head_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            # The client left in this very moment.
            return
        if self._is_replying():
            self._end_behind_reply()
        elif self._reading is _Reading.HEAD:
            late = HttpError("request_timeout", f"The head of the request did not arrive within {self._limits.head_s:g} s.")
            self._refuse(late, late.code)
        else:
            # Nothing was asked: there is nothing to answer.
            self._on_refused("idle")
            self._close()

    def on_response_complete(self) -> None:
        """A reply is written. What of it the client has not taken is watched; so is what it still has to send."""
        super().on_response_complete()
        self._watch_writing()
        if self._reading is not _Reading.NOTHING and not self._is_replying():
            self._expect_head()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for too long."""
        self._close()

    # How slowly it may read.

    def pause_writing(self) -> None:
        """The client does not take what is written as fast as it is written."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """It took it."""
        super().resume_writing()
        self._stop_write_timer()
        self._watch_writing()

    def _watch_writing(self, *, looks: int = 0, stuck_bytes: int = 0) -> None:
        """Where nobody adds to what waits, it must become less: while the application is held back, and behind the last reply.

        It is looked at twice in the time, so that a moment in which this process itself stood still is not taken for the reader's.
        """
        waiting_bytes = self.transport.get_write_buffer_size()
        is_fixed = self.flow.write_paused or self.transport.is_closing()
        if not (waiting_bytes and is_fixed) or self._write_timer is not None:
            return
        looks = looks + 1 if waiting_bytes == stuck_bytes else 0
        if looks == _LOOKS:
            _LOG.info("slow_reader_cut", waiting_bytes=waiting_bytes)
            self._on_refused("slow_reader")
            self.transport.abort()
            return
        self._write_timer = self.loop.call_later(self._limits.write_s / _LOOKS, self._on_write_late, looks, waiting_bytes)

    def _on_write_late(self, looks: int, stuck_bytes: int) -> None:
        self._write_timer = None
        self._watch_writing(looks=looks, stuck_bytes=stuck_bytes)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    # How it ends.

    def _newest(self) -> RequestResponseCycle | None:
        # There is none before the first request; uvicorn's annotation says otherwise.
        return self.cycle

    def _is_replying(self) -> bool:
        newest = self._newest()
        return bool(self.pipeline) or (newest is not None and not newest.response_complete)

    def _end_behind_reply(self) -> None:
        """Takes nothing more; the connection ends with the last reply that is due."""
        self._takes_no_more = True
        if self._is_replying():
            self.cycle.keep_alive = False
        else:
            self._close()

    def _refuse_fault(self, error: HttpError) -> None:
        """Ends a connection on which nothing sensible can follow."""
        # A complete request gets its reply first; one whose own body is broken cannot.
        if self._is_replying() and self._reading is not _Reading.BODY:
            self._end_behind_reply()
            self._on_refused(error.code)
        elif self.pipeline or (self._is_replying() and self.cycle.response_started):
            self._on_refused(error.code)
            self._close()
        else:
            self._refuse(error, error.code)

    def _refuse(self, error: HttpError, reason: str) -> None:
        self._takes_no_more = True
        self._on_refused(reason)
        reply = error.response()
        body = bytes(reply.body)
        names = [*SAFE_HEADERS, ("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        if retry_after := error.headers.get("Retry-After"):
            names.append(("Retry-After", retry_after))
        lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in names)
        if self._is_replying():
            # The request in work hears that its client is gone, and writes nothing behind this.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(STATUS_LINE[error.status] + lines + b"\r\n" + body)
        if self._place is not None and self.transport.can_write_eof():
            self._stop_head_timer()
            self.transport.write_eof()
            self._head_timer = self.loop.call_later(_LINGER_S, self._close)
        else:
            self._close()

    def _close(self) -> None:
        """Closes when all is sent, and not later than a slow reader may take."""
        self._stop_head_timer()
        self.transport.close()
        self._watch_writing()
