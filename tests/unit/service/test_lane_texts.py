"""No text of a lane brings a control character to the store or to a terminal, whichever field it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from warmlane.lane.v1 import dispatch_service_pb2 as lane_pb

from admission.engine_types import InvalidReportError
from admission.service.convert_lanes import report
from tests.harness.hostile_messages import Hostile
from tests.harness.lane_words import good_report

_LEASE = lane_pb.Lease(task_id="0" * 32, attempt=1, artifact_prefix=f"results/{'0' * 32}/1/")
_OTHER = lane_pb.Lease(task_id="1" * 32, attempt=1, artifact_prefix=f"results/{'1' * 32}/1/")
# Enough that work goes on, is done and has failed, with and without an object store that is away.
_SEEDS = range(12)


def whole_report(seed: int) -> lane_pb.LaneReport:
    """What a lane may say, with an attempt that it finishes beside another one; half of what ends was not measured."""
    message = good_report(_LEASE, Hostile(seed).random, boot=1)
    message.finishing.CopyFrom(good_report(_OTHER, Hostile(seed + 1).random, boot=1).work)
    message.finishing.gpu_free = True
    for work in (message.work, message.finishing):
        if work.HasField("outcome") and seed % 2:
            work.outcome.memory.Clear()
            work.outcome.memory.unmeasured_reason = "no driver"
    return message


def spoiled(message: Message, character: str, path: str = "") -> Iterator[str]:
    """Adds the character to one text after another, those of other messages in it too; what is spoiled at each step."""
    for field, value in message.ListFields():
        where = f"{path}{field.name}"
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from spoiled(part, character, f"{where}.")
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            before, value[0] = value[0], f"{value[0]}{character}"
            yield where
            value[0] = before
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, f"{value}{character}")
            yield where
            setattr(message, field.name, value)


def texts_of(kind: Descriptor, path: str = "") -> Iterator[str]:
    """Every text that a message can have."""
    for field in kind.fields:
        if field.message_type is not None:
            yield from texts_of(field.message_type, f"{path}{field.name}.")
        elif field.type == FieldDescriptor.TYPE_STRING:
            yield f"{path}{field.name}"


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x9b", "\x7f", "\u202e"], ids=repr)
@pytest.mark.parametrize("seed", _SEEDS)
def test_no_text_of_a_report_keeps_a_control_character(seed: int, character: str) -> None:
    message = whole_report(seed)
    written = repr(character)[1:-1]
    assert written not in repr(report(message, session=1))
    for where in spoiled(message, character):
        with suppress(InvalidReportError):
            assert written not in repr(report(message, session=1)), where


def test_every_text_of_a_report_is_spoiled() -> None:
    spoilt = {where for seed in _SEEDS for where in spoiled(whole_report(seed), "\0")}
    assert set(texts_of(lane_pb.LaneReport.DESCRIPTOR)) - spoilt == set()
