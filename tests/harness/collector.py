"""A collector of OTLP over HTTP in this process: it reads what it is sent with OpenTelemetry's own messages, and answers as a test says."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from runtime.traces.tracer import Value

_POLL_S = 0.02
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A span as it came."""

    service: str
    instance: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    is_failed: bool
    state: str
    is_server: bool


class CollectorDouble:
    """Use as a context manager: it listens within.

    Attributes:
        spans: all that came.
        bodies: every message, as it came.
        headers: of every message.
        status: that it answers with.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """Listens to nobody yet; with `tls` it speaks https."""
        self._tls = tls
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> CollectorDouble:
        """Begins to listen."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends it."""
        self.stop()

    @property
    def url(self) -> str:
        """What a process is told."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listens, after the first time on the same port again."""
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                double._take(self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(double.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="collector", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listens no more."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()

    def trace(self, trace_id: str) -> list[Received]:
        """Its spans, in the order in which they began."""
        return sorted((span for span in tuple(self.spans) if span.trace_id == trace_id), key=lambda span: (span.began_ns, -span.ended_ns))

    def until(self, holds: Callable[[], bool]) -> None:
        """Returns when the condition holds; what it waits for is sent by other processes."""
        ends_s = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < ends_s, tree(self.spans)
            time.sleep(_POLL_S)

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        self.headers.append(headers)
        if self.status == 200:
            self.bodies.append(body)
            self.spans += received(body)


def received(body: bytes) -> list[Received]:
    """The spans of a message."""
    found = []
    for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _values(of_process.resource.attributes)
        for scope in of_process.scope_spans:
            found += [_received(span, resource) for span in scope.spans]
    return found


def _received(span: Message, resource: Mapping[str, Value]) -> Received:
    return Received(
        service=str(resource["service.name"]),
        instance=str(resource.get("service.instance.id", "")),
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        is_failed=span.status.code == Status.STATUS_CODE_ERROR,
        state=span.trace_state,
        is_server=span.kind == Message.SPAN_KIND_SERVER,
    )


def _values(attributes: Sequence[KeyValue]) -> dict[str, Value]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}


def tree(spans: Sequence[Received]) -> str:
    """The spans as an indented list, each below its parent: how long it took, and who wrote it."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Received]] = {}
    for span in sorted(spans, key=lambda span: (span.began_ns, span.ended_ns)):
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)

    def lines(parent_id: str, depth: int) -> list[str]:
        found = []
        for span in children.get(parent_id, ()):
            name = "  " * depth + span.name
            found.append(f"{name:64} {(span.ended_ns - span.began_ns) / 1e6:9.1f} ms  {span.service}")
            found += lines(span.span_id, depth + 1)
        return found

    return "\n".join(lines("", 0))
