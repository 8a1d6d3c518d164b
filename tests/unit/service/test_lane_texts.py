"""No text of a lane brings a control character to the store or to a terminal, whichever field it is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from warmlane.lane.v1 import dispatch_service_pb2 as lane_pb

from admission.engine_types import InvalidReportError
from admission.service.convert_lanes import report
from tests.harness.hostile_messages import Hostile
from tests.harness.lane_words import good_report

_LEASE = lane_pb.Lease(task_id="0" * 32, attempt=1, artifact_prefix=f"results/{'0' * 32}/1/")


def spoiled(message: Message, path: str = "") -> Iterator[str]:
    """Puts a NUL into one text after another, those of other messages in it too; what is spoiled at each step."""
    for field, value in message.ListFields():
        where = f"{path}{field.name}"
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from spoiled(part, f"{where}.")
        elif field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                before, value[0] = value[0], f"{value[0]}\0"
                yield where
                value[0] = before
            else:
                setattr(message, field.name, f"{value}\0")
                yield where
                setattr(message, field.name, value)


@pytest.mark.parametrize("seed", range(6))
def test_no_text_of_a_report_keeps_a_control_character(seed: int) -> None:
    # Work that goes on, that is done, that failed; with and without an object store that is away.
    message, seen = good_report(_LEASE, Hostile(seed).random, boot=1), set()
    assert "\\x00" not in repr(report(message, session=1))
    for where in spoiled(message):
        seen.add(where)
        with suppress(InvalidReportError):
            assert "\\x00" not in repr(report(message, session=1)), where
    assert seen >= {"lane_id", "reason", "work.detail", "memory.limits.gpu", "start_failure.reason"}


def test_every_text_of_a_report_was_spoiled() -> None:
    seen = {where for seed in range(6) for where in spoiled(good_report(_LEASE, Hostile(seed).random, boot=1))}
    assert {"object_store_failure", "work.outcome.failure.message", "work.outcome.memory.placement", "load.stage"} <= seen
    own = {field.name for field in lane_pb.LaneReport.DESCRIPTOR.fields if field.type == FieldDescriptor.TYPE_STRING}
    assert own <= {where.split(".")[0] for where in seen}
