"""`python -m benchmarks.admission_process KIND FOLDER`: a server to measure, in a process of its own; prints its port.

`noop` is a plain grpc.aio server whose SubmitTask answers the same small message at once; `noop-fsync` is the same one that before appends
4 KiB to a file in FOLDER and waits for its fsync: as little as a durable answer can cost here, without a decision and without a database.
`noop-tuned` is `noop` with the event loop and the collector's thresholds that admission uses. `admission` is the product's own process, its
database and objects in FOLDER, with one difference: its model queues do not close at 25 tasks, so that many acceptances can be measured.
`admission-uncounted` is that with its metrics off, `admission-watched` with metrics and traces on, its spans sent to a collector that takes
them (`collector`), and `admission-unwatched` with neither metrics nor traces, and no log line but errors.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import grpc.aio
import uvloop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from warmlane.admission.v1 import admission_service_pb2 as pb

from admission.config import AdmissionSettings
from admission.core.limits import Limits
from admission.process import serve
from runtime.logs import LogSettings, configure_logging
from runtime.process import GC_THRESHOLDS, stop_event

_ANSWER = pb.SubmitTaskResponse()
_ANSWER.task.task_id = "0" * 32
_PAGE = b"x" * 4096

_Handler = Callable[[pb.SubmitTaskRequest, object], Awaitable[pb.SubmitTaskResponse]]


async def _answer(request: pb.SubmitTaskRequest, context: object) -> pb.SubmitTaskResponse:
    return _ANSWER


def _answer_after_fsync(appended: BinaryIO) -> _Handler:
    async def answer(request: pb.SubmitTaskRequest, context: object) -> pb.SubmitTaskResponse:
        # In the loop itself: a thread would cost more, and nobody else waits.
        appended.write(_PAGE)
        os.fsync(appended.fileno())
        return _ANSWER

    return answer


async def _noop(answer: _Handler = _answer) -> None:
    stop = stop_event()
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=pb.SubmitTaskRequest.FromString, response_serializer=pb.SubmitTaskResponse.SerializeToString
    )
    service = "warmlane.admission.v1.AdmissionService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"SubmitTask": handler}),))
    _say(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await stop.wait()
    await server.stop(0)


async def _admission(folder: Path, kind: str) -> None:
    is_traced = kind == "admission-watched"
    # It stands in the environment of both of a pair.
    endpoint = os.environ.get("WARMLANE_OTLP_ENDPOINT", "") if is_traced else ""
    settings = AdmissionSettings(
        metrics_bind="127.0.0.1:0" if is_traced or kind == "admission" else "",
        admission_bind="127.0.0.1:0",
        database_url=f"sqlite:///{folder / 'admission.db'}",
        object_store_url=(folder / "objects").as_uri(),
        otlp_endpoint=endpoint,
    )
    await serve(settings, limits=Limits(queue_depth=1_000_000_000), on_serving=_say)


class _Counting(ThreadingHTTPServer):
    """Counts the spans of what it takes, and keeps nothing: memory that grows is cold, and costs more than the reading."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Collector)
        self.spans = 0

    def take(self, content: bytes) -> None:
        message = ExportTraceServiceRequest.FromString(content)
        # One process sends, on one connection.
        self.spans += sum(len(scope.spans) for process in message.resource_spans for scope in process.scope_spans)


class _Collector(BaseHTTPRequestHandler):
    """Takes all messages; GET tells how many spans they had."""

    protocol_version = "HTTP/1.1"
    server: _Counting

    def do_POST(self) -> None:
        self.server.take(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(str(self.server.spans).encode())

    def _answer(self, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


def _collect() -> None:
    with _Counting() as server:
        _say(server.server_port)
        server.serve_forever()


def _say(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    configure_logging(LogSettings(log_level="error" if kind == "admission-unwatched" else "info"), process="benchmark")
    if kind == "noop":
        asyncio.run(_noop())
    elif kind == "noop-fsync":
        with (folder / "appended").open("ab", buffering=0) as appended:
            asyncio.run(_noop(_answer_after_fsync(appended)))
    elif kind == "collector":
        _collect()
    else:
        gc.set_threshold(*GC_THRESHOLDS)
        uvloop.run(_noop() if kind == "noop-tuned" else _admission(folder, kind))
