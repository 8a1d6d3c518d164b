"""Messages are those that OpenTelemetry's own SDK makes of the same spans."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from runtime.traces.encoding import Encoder
from runtime.traces.tracer import Kind, Span, Value
from tests.unit.traces.spans import CONTEXT

RESOURCE = {"service.name": "admission", "service.version": "1"}
KINDS = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER}


def _theirs(spans: list[Span]) -> ExportTraceServiceRequest:
    resource, scope = Resource(RESOURCE), InstrumentationScope("warmlane")
    readable = []
    for span in spans:
        state = TraceState([tuple(member.split("=")) for member in span.context.state.split(",") if member])  # type: ignore[misc]
        trace_id = int(span.context.trace_id, 16)
        context = SpanContext(trace_id, int(span.context.span_id, 16), False, TraceFlags(1), state)
        parent = SpanContext(trace_id, int(span.parent_id, 16), False, TraceFlags(1)) if span.parent_id else None
        readable.append(
            ReadableSpan(
                name=span.name,
                context=context,
                parent=parent,
                resource=resource,
                attributes=dict(span.attributes),
                kind=KINDS[span.kind],
                status=Status(StatusCode.ERROR if span.is_failed else StatusCode.UNSET),
                start_time=span.began_ns,
                end_time=span.ended_ns,
                instrumentation_scope=scope,
            )
        )
    return encode_spans(readable)


def test_the_message_is_the_sdk_s_when_the_spans_are_the_same() -> None:
    everything: dict[str, Value] = {"text": "ü", "empty": "", "whole": -(2**40), "true": True, "false": False, "zero": 0, "real": 0.5}
    # An id comes twice, of one length; others are longer than what a byte says, or have letters of two bytes.
    everything |= {"id": "a" * 32, "long": "x" * 300, "letters": "ü" * 70}
    spans = [
        Span(name="root", context=CONTEXT, parent_id="", began_ns=10**18, ended_ns=10**18 + 7, attributes=everything, kind=Kind.SERVER),
        Span(name="part", context=CONTEXT.at("1" * 16), parent_id=CONTEXT.span_id, began_ns=1, ended_ns=1, is_failed=True),
        Span(
            name="part", context=CONTEXT.at("2" * 16), parent_id="", began_ns=1, ended_ns=2, attributes={"id": "b" * 32, "long": "y" * 301}
        ),
        Span(
            name="ö" * 100, context=CONTEXT._replace(state=""), parent_id=CONTEXT.span_id, began_ns=1, ended_ns=2**62, attributes=everything
        ),
    ]
    ours, theirs = ExportTraceServiceRequest.FromString(Encoder(RESOURCE).encode(spans)), _theirs(spans)
    for span in theirs.resource_spans[0].scope_spans[0].spans:
        if not span.status.code:
            span.ClearField("status")
    for span in ours.resource_spans[0].scope_spans[0].spans:
        # We say that the trace is sampled; theirs leaves that out.
        assert span.flags & 0xFF == 1
        span.flags &= ~0xFF
    assert ours == theirs


def test_a_span_ends_when_it_began_if_the_clock_was_set_back() -> None:
    span = Span(name="back", context=CONTEXT, parent_id="", began_ns=1000, ended_ns=10)
    message = ExportTraceServiceRequest.FromString(Encoder(RESOURCE).encode([span]))
    [made] = message.resource_spans[0].scope_spans[0].spans
    assert (made.start_time_unix_nano, made.end_time_unix_nano) == (1000, 1000)


def test_a_batch_holds_nothing_of_the_one_before_when_an_encoder_is_used_again() -> None:
    encoder, span = Encoder(RESOURCE), Span(name="one", context=CONTEXT, parent_id="", began_ns=1, ended_ns=2)
    assert encoder.encode([span]) == encoder.encode([span])
