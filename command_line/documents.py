"""Messages of admission as plain values for `--json`: stable names, numbers as numbers, absent values as null."""

from __future__ import annotations

import json
from datetime import UTC
from typing import cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]


def document(message: Message) -> Value:
    """The message with its field names; enums in lower case without their prefix (null when unspecified), durations in seconds,
    times as ISO 8601 in UTC, unset optional fields and messages as null.
    """
    if isinstance(message, Timestamp):
        return message.ToDatetime(tzinfo=UTC).isoformat().replace("+00:00", "Z")
    if isinstance(message, Duration):
        return message.ToTimedelta().total_seconds()
    return {field.name: _field(message, cast("FieldDescriptor", field)) for field in message.DESCRIPTOR.fields}


def to_json(message: Message, *, indent: int | None = 2) -> str:
    """The document as JSON text."""
    return json.dumps(document(message), indent=indent, ensure_ascii=False)


def enum_name(descriptor: EnumDescriptor, number: int) -> str | None:
    """`TASK_STATE_DONE` as `done`; None for the unspecified value; the number as text when a newer server sends an unknown one."""
    if number == 0:
        return None
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix).lower()


def _field(message: Message, field: FieldDescriptor) -> Value:
    if field.is_repeated:
        return [_value(field, item) for item in getattr(message, field.name)]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, getattr(message, field.name))


def _value(field: FieldDescriptor, value: object) -> Value:
    if isinstance(value, Message):
        return document(value)
    if field.enum_type is not None and isinstance(value, int):
        return enum_name(field.enum_type, value)
    if isinstance(value, str | int | float | bool):
        return value
    msg = f"field {field.full_name} cannot be shown as JSON"
    raise TypeError(msg)
