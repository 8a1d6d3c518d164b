"""Between messages and core values: how far a lane's load is, and why it cannot become warm."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from google.protobuf import timestamp_pb2
from warmlane.generation.v1 import generation_pb2

from admission.core.lanes import LoadProgress, StartCause, StartFailure
from admission.engine_types import InvalidReportError
from admission.service.texts import told

if TYPE_CHECKING:
    from datetime import datetime

    from admission.core.lanes import LaneSpec

# As for what else lanes say for people: what is longer is cut.
_MAX_STAGE = 200
_MAX_REASON = 500

_CAUSES = {cause: generation_pb2.StartFailureCause.Value(f"START_FAILURE_CAUSE_{cause.name}") for cause in StartCause}
_CAUSES_BACK = {value: cause for cause, value in _CAUSES.items()}


def load(of: LoadProgress) -> generation_pb2.LoadProgress:
    """As it travels."""
    return generation_pb2.LoadProgress(model=of.model, stage=of.stage, read_bytes=of.read_bytes, total_bytes=of.total_bytes)


def failure(of: StartFailure) -> generation_pb2.StartFailure:
    """As it travels."""
    message = generation_pb2.StartFailure(cause=_CAUSES[of.cause], reason=of.reason, attempts=of.attempts)
    if of.next_attempt_at is not None:
        next_at = timestamp_pb2.Timestamp()
        next_at.FromDatetime(of.next_attempt_at)
        message.next_attempt_at.CopyFrom(next_at)
    return message


def reported_load(message: generation_pb2.LoadProgress, spec: LaneSpec) -> LoadProgress:
    """What a lane said; raises InvalidReportError naming the field that makes no sense."""
    if message.model and message.model not in spec.models:
        raise InvalidReportError("load.model must be one of models")
    if not 0 <= message.read_bytes <= message.total_bytes:
        raise InvalidReportError("load.read_bytes must be 0 to total_bytes")
    return LoadProgress(
        model=message.model, stage=told(message.stage, _MAX_STAGE), read_bytes=message.read_bytes, total_bytes=message.total_bytes
    )


def reported_failure(message: generation_pb2.StartFailure) -> StartFailure:
    """What a lane said; raises InvalidReportError. A cause that a newer lane knows is another one here."""
    if message.attempts < 1:
        raise InvalidReportError("start_failure.attempts must be at least 1")
    return StartFailure(
        cause=_CAUSES_BACK.get(message.cause, StartCause.OTHER),
        reason=told(message.reason, _MAX_REASON),
        attempts=message.attempts,
        next_attempt_at=_moment(message.next_attempt_at) if message.HasField("next_attempt_at") else None,
    )


def _moment(message: timestamp_pb2.Timestamp) -> datetime:
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidReportError("start_failure.next_attempt_at is no time") from None
