"""Spans of gRPC calls: which calls get one, below what, and what callers pass on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import admission_service_pb2_grpc as stubs

from runtime.errors import ErrorCode, ServiceError
from runtime.rpc import GrpcServer, create_channel
from runtime.token_channel import TokenChannel
from runtime.traces import names
from runtime.traces.context import parse
from runtime.traces.current import OpenSpan, annotate, current, current_trace_id, entered
from runtime.traces.rpc import RpcTraces, TraceChannel
from runtime.traces.tracer import Kind
from tests.unit.traces.spans import CONTEXT, TRACE, Kept

if TYPE_CHECKING:
    from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceAsyncStub

SERVICE = "warmlane.admission.v1.AdmissionService"
SUBMIT, GET, WATCH = f"{SERVICE}/SubmitTask", f"{SERVICE}/GetTask", f"{SERVICE}/WatchTask"
CALL_S = 10.0


class Admission(stubs.AdmissionServiceServicer):
    """Says what it was called in."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.logged: list[object] = []
        self.metadata: list[dict[str, str]] = []

    def _note(self, context: grpc.aio.ServicerContext[object, object]) -> None:
        found = current()
        self.seen.append("" if found is None else found.trace_id)
        self.logged.append(current_trace_id())
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata() or ()})

    async def SubmitTask(  # noqa: N802
        self, request: pb.SubmitTaskRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.SubmitTaskResponse:
        self._note(context)
        annotate(names.DECISION, "accepted")
        return pb.SubmitTaskResponse()

    async def GetTask(  # noqa: N802
        self, request: pb.GetTaskRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.GetTaskResponse:
        self._note(context)
        if request.task_id == "hangs":
            await asyncio.Event().wait()
        if request.task_id == "breaks":
            raise RuntimeError
        raise ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="There is no such task.")

    async def WatchTask(  # noqa: N802
        self, request: pb.WatchTaskRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.WatchTaskResponse]:
        self._note(context)
        yield pb.WatchTaskResponse()
        yield pb.WatchTaskResponse()


@asynccontextmanager
async def _served(tracer: Kept, *, wraps: type[TraceChannel] | None = None) -> AsyncIterator[tuple[Admission, AdmissionServiceAsyncStub]]:
    admission = Admission()  # type: ignore[abstract]
    server = GrpcServer(
        "127.0.0.1:0",
        {SERVICE: lambda to: stubs.add_AdmissionServiceServicer_to_server(admission, to)},
        traces=RpcTraces(tracer, roots=(f"/{SUBMIT}",)),
    )
    await server.start()
    channel = create_channel(f"127.0.0.1:{server.port}")
    async with channel if wraps is None else wraps(channel) as used:
        try:
            yield admission, stubs.AdmissionServiceStub(used)
        finally:
            await server.stop(0)


def _metadata(*pairs: tuple[str, str]) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*pairs)


async def test_a_span_hangs_below_the_caller_s_when_the_call_brings_a_context() -> None:
    tracer = Kept()
    async with _served(tracer) as (admission, stub):
        metadata = _metadata(("traceparent", CONTEXT.traceparent), ("tracestate", "vendor=opaque"))
        await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S, metadata=metadata)
    [span] = tracer.spans
    assert (span.name, span.kind, span.parent_id, span.is_failed) == (SUBMIT, Kind.SERVER, CONTEXT.span_id, False)
    assert (span.context.trace_id, span.context.state) == (TRACE, "vendor=opaque")
    assert span.context.span_id != CONTEXT.span_id
    assert span.attributes == {names.RPC_SYSTEM: "grpc", names.RPC_STATUS: "OK", names.DECISION: "accepted"}
    assert admission.seen == admission.logged == [TRACE]


async def test_a_trace_begins_only_where_it_may_when_the_call_brings_none() -> None:
    tracer = Kept()
    async with _served(tracer) as (admission, stub):
        await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetTask(pb.GetTaskRequest(), timeout=CALL_S)
        await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S)
    assert [(span.name, span.parent_id) for span in tracer.spans] == [(SUBMIT, ""), (SUBMIT, "")]
    first, nothing, second = admission.seen
    assert nothing == ""
    assert admission.logged[1] == ""
    assert first != second


@pytest.mark.parametrize(
    "pairs",
    [
        [("traceparent", "nonsense")],
        [("tracestate", "vendor=opaque")],
    ],
)
async def test_a_trace_of_its_own_begins_when_the_context_is_none(pairs: Sequence[tuple[str, str]]) -> None:
    tracer = Kept()
    async with _served(tracer) as (_, stub):
        await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S, metadata=_metadata(*pairs))
    [span] = tracer.spans
    assert (span.parent_id, span.context.state) == ("", "")
    assert span.context.trace_id != TRACE


@pytest.mark.parametrize(
    ("task_id", "status", "code", "is_failed"),
    [("unknown", "NOT_FOUND", "task_not_found", False), ("breaks", "INTERNAL", "internal", True)],
)
async def test_the_code_is_told_when_the_call_is_refused(task_id: str, status: str, code: str, is_failed: bool) -> None:
    tracer = Kept()
    async with _served(tracer) as (_, stub):
        metadata = _metadata(("traceparent", CONTEXT.traceparent))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetTask(pb.GetTaskRequest(task_id=task_id), timeout=CALL_S, metadata=metadata)
    [span] = tracer.spans
    assert (span.attributes[names.RPC_STATUS], span.attributes[names.CODE], span.is_failed) == (status, code, is_failed)


async def test_the_span_says_so_when_the_caller_goes_away() -> None:
    tracer = Kept()
    async with _served(tracer) as (admission, stub):
        call = stub.GetTask(pb.GetTaskRequest(task_id="hangs"), timeout=CALL_S, metadata=_metadata(("traceparent", CONTEXT.traceparent)))
        async with asyncio.timeout(CALL_S):
            while not admission.seen:  # noqa: ASYNC110 (nothing tells when it does)
                await asyncio.sleep(0.01)
            call.cancel()
            while not tracer.spans:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    [span] = tracer.spans
    assert (span.attributes[names.RPC_STATUS], span.is_failed) == ("CANCELLED", False)


async def test_one_span_covers_a_stream_when_it_brings_a_context() -> None:
    tracer = Kept()
    async with _served(tracer) as (admission, stub):
        for metadata in (None, _metadata(("traceparent", CONTEXT.traceparent))):
            answers = [answer async for answer in stub.WatchTask(pb.WatchTaskRequest(), timeout=CALL_S, metadata=metadata)]
            assert len(answers) == 2
    assert tracer.names() == [WATCH]
    assert admission.seen == ["", TRACE]


async def test_nothing_is_written_but_the_context_goes_on_when_the_trace_is_not_sampled() -> None:
    tracer = Kept()
    async with _served(tracer) as (admission, stub):
        unsampled = CONTEXT._replace(is_sampled=False)
        await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S, metadata=_metadata(("traceparent", unsampled.traceparent)))
    assert tracer.spans == []
    assert admission.seen == [TRACE]


async def test_calls_carry_the_open_span_when_there_is_one() -> None:
    tracer = Kept()
    async with _served(tracer, wraps=TraceChannel) as (admission, stub):
        await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S)
        with entered(OpenSpan(CONTEXT, {})):
            await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S, metadata=_metadata(("other", "kept")))
        await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S)
    before, within, after = admission.metadata
    assert "traceparent" not in before | after
    assert parse(within["traceparent"], within["tracestate"]) == CONTEXT
    assert within["other"] == "kept"
    assert tracer.spans[1].parent_id == CONTEXT.span_id


async def test_calls_carry_the_token_too_when_the_channel_has_one() -> None:
    class Both(TraceChannel):
        def __init__(self, channel: grpc.aio.Channel) -> None:
            super().__init__(TokenChannel(channel, "t" * 32))

    async with _served(Kept(), wraps=Both) as (admission, stub):
        with entered(OpenSpan(CONTEXT, {})):
            await stub.SubmitTask(pb.SubmitTaskRequest(), timeout=CALL_S)
    [metadata] = admission.metadata
    assert metadata["authorization"] == f"Bearer {'t' * 32}"
    assert metadata["traceparent"] == CONTEXT.traceparent


def test_nothing_happens_when_something_is_added_to_no_span() -> None:
    annotate(names.CODE, "anything")
    assert current() is None
