"""Messages that nobody in their right mind sends: every field filled with what breaks programs, from a seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from google.protobuf.message import Message

_M = TypeVar("_M", bound="Message")

_TEXTS = (
    "", "\0", "a\0b", "\x1b[2J", "a\r\nSet-Cookie: a=b", "x" * 5_000, "../../etc/passwd",
    "\u202e\ufeff\U0010ffff", "'; DROP TABLE tasks", "%s%n{0}",
    "a" * 129, "0" * 32, "anisora", "phr00t", "lane-x", "session:1", "image-1",
)  # fmt: skip
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-308, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 0.5)
_INTS = {
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1, -(2**31), 100, 101),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 2**63 - 1, -(2**63), 2**31, 10**18),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2**64 - 1),
}
_ENUMS = (0, 1, 2, 3, 7, 2**31 - 1, -1)
_DEEPEST = 5


class Hostile:
    """Makes messages; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        """From this seed."""
        self.random = random.Random(seed)  # noqa: S311 - no secret

    def filled(self, message: _M, *, share: float = 0.7, depth: int = 0) -> _M:
        """The message with about this share of its fields set."""
        for field in message.DESCRIPTOR.fields:
            if self.random.random() < share:
                self._fill(message, cast("FieldDescriptor", field), depth)
        return message

    def spoiled(self, message: _M) -> _M:
        """A good message of which one field, however deep, is not good any more."""
        spoiled = type(message)()
        spoiled.CopyFrom(message)
        inner: Message = spoiled
        while True:
            below = [
                (field, value)
                for field, value in inner.ListFields()
                if field.message_type is not None and not field.message_type.GetOptions().map_entry
            ]
            if not below or self.random.random() < 0.25:
                break
            field, value = self.random.choice(below)
            inner = self.random.choice(list(value)) if field.is_repeated else value
        self._fill(inner, cast("FieldDescriptor", self.random.choice(list(inner.DESCRIPTOR.fields))), 0)
        return spoiled

    def _fill(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return
        if field.is_repeated:
            message.ClearField(field.name)
            for _ in range(self.random.choice((1, 2, 3, 40 if not depth else 4))):
                if field.message_type is not None:
                    if depth < _DEEPEST:
                        self.filled(getattr(message, field.name).add(), depth=depth + 1)
                else:
                    getattr(message, field.name).append(self._value(field))
        elif field.message_type is not None:
            if depth < _DEEPEST:
                getattr(message, field.name).SetInParent()
                self.filled(getattr(message, field.name), depth=depth + 1)
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> object:
        kind = field.cpp_type
        if kind in _INTS:
            return self.random.choice(_INTS[kind])
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self.random.choice(_FLOATS)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.random.random() < 0.5
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self.random.choice(_ENUMS)
        text = self.random.choice(_TEXTS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
