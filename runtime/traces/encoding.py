"""Spans as OTLP. The one module that imports opentelemetry; it is imported late, and only while traces are on.

The messages are OpenTelemetry's own, but what differs from span to span (ids, times, long texts) and the brackets around all are put by
hand: what a span takes here is taken from the event loop, as both share the interpreter. The SDK needs some 40 µs a span, a tenth of what
an acceptance costs altogether, and gives no span an id that is known before it is over; here it is some 2 µs. A test holds the two to the
same messages.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, SpanFlags, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

if TYPE_CHECKING:
    from google.protobuf.message import Message as AnyMessage

    from runtime.traces.tracer import Span, Value

_SCOPE = InstrumentationScope(name="warmlane").SerializeToString()
_FLAGS = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK | 1
_FAILED = Status(code=Status.STATUS_CODE_ERROR)
# Texts that come again and again are made once; longer ones are mostly ids, which do not.
_REPEATED_CHARACTERS = 24
_MOST_REPEATED = 1024


def _bracket(message: type[AnyMessage], field: str) -> int:
    """What stands before each value of a field that is a message, a text or bytes: its number, and that a length follows."""
    return message.DESCRIPTOR.fields_by_name[field].number << 3 | 2


def _moment(field: str) -> int:
    """What stands before a time: its number, and that eight bytes follow, the lowest first."""
    return Message.DESCRIPTOR.fields_by_name[field].number << 3 | 1


_TRACE_ID = bytes((_bracket(Message, "trace_id"), 16)).hex()
_SPAN_ID = bytes((_bracket(Message, "span_id"), 8)).hex()
_PARENT_ID = bytes((_bracket(Message, "parent_span_id"), 8)).hex()
_STATE = _bracket(Message, "trace_state")
_BEGAN, _ENDED = _moment("start_time_unix_nano"), _moment("end_time_unix_nano")
_TIMES = struct.Struct("<BQBQ")
_ATTRIBUTE = _bracket(Message, "attributes")
_SPAN = _bracket(ScopeSpans, "spans")
_OF_SCOPE = _bracket(ScopeSpans, "scope")
_SCOPES = _bracket(ResourceSpans, "scope_spans")
_RESOURCE = _bracket(ResourceSpans, "resource")
_PROCESSES = _bracket(ExportTraceServiceRequest, "resource_spans")


class Encoder:
    """Makes messages of one process. One thread uses it."""

    def __init__(self, resource: Mapping[str, Value]) -> None:
        """`resource`: what the process is."""
        of_process = Resource(attributes=[_key_value(name, value) for name, value in resource.items()]).SerializeToString()
        self._resource = _bracketed(_RESOURCE, of_process)
        self._scope = _bracketed(_OF_SCOPE, _SCOPE)
        self._named: dict[tuple[str, int, bool], bytes] = {}
        self._repeated: dict[tuple[str, Value], bytes] = {}
        self._before: dict[tuple[str, int], bytes] = {}

    def encode(self, spans: Sequence[Span]) -> bytes:
        """One message of these spans."""
        pieces = [self._scope]
        for span in spans:
            made = self._span(span)
            length = len(made)
            pieces += (_SPAN_HEADS[length] if length < _USUAL_BYTES else _head(_SPAN, length), made)
        return _bracketed(_PROCESSES, self._resource + _bracketed(_SCOPES, b"".join(pieces)))

    def _span(self, span: Span) -> bytes:
        name, (trace_id, span_id, _, state), parent_id, began_ns, ended_ns, attributes, kind, is_failed = span
        named = self._named.get((name, kind, is_failed)) or self._name(name, kind, is_failed)
        # The clock may have been set back meanwhile.
        times = _TIMES.pack(_BEGAN, began_ns, _ENDED, max(began_ns, ended_ns))
        # All ids at once, with what stands before each as digits too.
        ids = (
            f"{_TRACE_ID}{trace_id}{_SPAN_ID}{span_id}{_PARENT_ID}{parent_id}" if parent_id else f"{_TRACE_ID}{trace_id}{_SPAN_ID}{span_id}"
        )
        pieces = [named, times, bytes.fromhex(ids)]
        if state:
            pieces.append(_bracketed(_STATE, state.encode()))
        known = self._repeated.get
        # Only texts are there: numbers would be found for others that are equal, as 1 is True.
        pieces += [known(item) or self._attribute(item) for item in attributes.items()]
        return b"".join(pieces)

    def _name(self, name: str, kind: int, is_failed: bool) -> bytes:
        """What spans of a name have in common. There are not many names: methods, routes and parts of attempts."""
        status = _FAILED if is_failed else None
        made = Message(name=name, kind=Message.SpanKind.ValueType(kind), status=status, flags=_FLAGS).SerializeToString()
        if len(self._named) < _MOST_REPEATED:
            self._named[name, kind, is_failed] = made
        return made

    def _attribute(self, item: tuple[str, Value]) -> bytes:
        name, value = item
        if type(value) is not str:
            return _bracketed(_ATTRIBUTE, _key_value(name, value).SerializeToString())
        if len(value) > _REPEATED_CHARACTERS:
            return self._long(name, value)
        made = _bracketed(_ATTRIBUTE, _key_value(name, value).SerializeToString())
        if len(self._repeated) < _MOST_REPEATED:
            self._repeated[item] = made
        return made

    def _long(self, name: str, value: str) -> bytes:
        """The text stands at the end; what stands before it depends on its length alone."""
        content = value.encode()
        before = self._before.get((name, len(content)))
        if before is None:
            before = _bracketed(_ATTRIBUTE, _key_value(name, value).SerializeToString())[: -len(content)]
            if len(self._before) < _MOST_REPEATED:
                self._before[name, len(content)] = before
        return before + content


def _key_value(name: str, value: Value) -> KeyValue:
    made = KeyValue(key=name)
    match value:
        case str():
            made.value.string_value = value
        case bool():
            made.value.bool_value = value
        case int():
            made.value.int_value = value
        case float():
            made.value.double_value = value
    return made


def _bracketed(bracket: int, content: bytes) -> bytes:
    """As protobuf frames a message within another: the field (its number is below 16), the length, the content."""
    return _head(bracket, len(content)) + content


def _head(bracket: int, length: int) -> bytes:
    """The length has seven bits a byte, the lowest first."""
    head = bytearray((bracket,))
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


# Of spans that are no longer than most.
_USUAL_BYTES = 1024
_SPAN_HEADS = tuple(_head(_SPAN, length) for length in range(_USUAL_BYTES))
