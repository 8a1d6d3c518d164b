"""From an imported task's message to a task, every field looked at. Today's rules do not apply, only bounds and what must be known."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.generation.v1 import generation_pb2

from admission.core.tasks import (
    TERMINAL,
    Failure,
    FailureCode,
    FallbackReason,
    LaneMode,
    Model,
    Stage,
    Task,
    TaskId,
    TaskState,
)
from admission.service import convert
from runtime.images import MAX_IMAGE_BYTES
from runtime.rules.catalogue import MODELS, SINGLE_IMAGE_FIELDS
from runtime.rules.request import InvalidRequestError, Violation
from runtime.rules.values import CONTROL_CHARACTERS
from runtime.videos import MAX_VIDEO_BYTES, VIDEO_TYPES
from runtime.wire import message_to_raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.timestamp_pb2 import Timestamp

OWNER = "key"
"""Of every imported task: nobody's session, so in a private gallery it is the API key's."""

MAX_PROMPT_CHARACTERS = 20_000
MAX_MESSAGE_CHARACTERS = 2_000
OTHERS_PREFIX = "image-"
"""Ids that begin so are the image upstream's."""

_MAX_NAME_CHARACTERS = 64
_MAX_PIXELS, _MAX_FRAMES = 65_536, 1_000_000
# Times without a zone are up to 14 hours off, and clocks go wrong.
_FUTURE = timedelta(days=1)
_CONTROL = re.compile(f"[{CONTROL_CHARACTERS}]")
_TEXTS = {
    "prompt": MAX_PROMPT_CHARACTERS,
    "negative_prompt": MAX_PROMPT_CHARACTERS,
    "output_format": _MAX_NAME_CHARACTERS,
    "lighting_variant": _MAX_NAME_CHARACTERS,
}
_POSITIVE = {"width": _MAX_PIXELS, "height": _MAX_PIXELS, "num_frames": _MAX_FRAMES, "fps": _MAX_FRAMES, "steps": _MAX_FRAMES}
_IMAGES = frozenset({*SINGLE_IMAGE_FIELDS, "arbitrary_frames"})
_STATES = {task_pb2.TaskState.Value(f"TASK_STATE_{state.name}"): state for state in sorted(TERMINAL)}
_MODES = {task_pb2.LaneMode.Value(f"LANE_MODE_{mode.name}"): mode for mode in LaneMode}
_REASONS = {task_pb2.FallbackReason.Value(f"FALLBACK_REASON_{reason.name}"): reason for reason in FallbackReason}
_CODES = tuple(code for code in FailureCode if code is not FailureCode.CANCELLED)
_CANCELLED = Failure(code=FailureCode.CANCELLED, message="The task was cancelled.")


def imported_task(message: operator_service_pb2.ImportedTask, now: datetime) -> Task:
    """The task, a done one without its result, which comes with the files.

    Raises:
        InvalidRequestError: with every field that cannot be taken over.
    """
    wrong = [*_task_violations(message), *_request_violations(message.request), *_time_violations(message, now)]
    if wrong:
        raise InvalidRequestError(tuple(wrong))
    state = _STATES[message.state]
    return Task(
        task_id=TaskId(message.task_id),
        owner=OWNER,
        model=Model(message.request.model),
        mode=message.request.mode,
        parameters={"prompt": "", **message_to_raw(message.request)},
        tokens=0,
        state=state,
        created_at=_moment(message.created_at),
        updated_at=_moment(message.updated_at),
        attempt=1,
        lane_mode=_MODES.get(message.lane_mode),
        fallback_reason=_REASONS.get(message.fallback_reason),
        progress=100 if state is TaskState.DONE else 0,
        stage=Stage.COMPLETED if state is TaskState.DONE else Stage.FAILED,
        failure=_failure(message, state),
    )


def _failure(message: operator_service_pb2.ImportedTask, state: TaskState) -> Failure | None:
    if state is TaskState.FAILED:
        return Failure(code=FailureCode(message.failure.code), message=message.failure.message)
    return _CANCELLED if state is TaskState.CANCELLED else None


def _task_violations(message: operator_service_pb2.ImportedTask) -> Iterator[Violation]:
    if convert.task_id(message.task_id) is None or message.task_id.startswith(OTHERS_PREFIX):
        form = f"must have 1 to 64 characters of 0-9, A-Z, a-z, _ and -, and not begin with {OTHERS_PREFIX}"
        yield Violation(field="task_id", message=form)
    state = _STATES.get(message.state)
    if state is None:
        yield Violation(field="state", message=f"must be {', '.join(_STATES.values())}: only what has ended can be taken over")
    is_done = state is TaskState.DONE
    if (is_done and message.media_type not in VIDEO_TYPES) or (not is_done and message.media_type):
        yield Violation(field="media_type", message=f"must be {' or '.join(VIDEO_TYPES)} for a done task, and empty for any other")
    yield from _size_violations(message, is_done=is_done)
    if message.HasField("failure") != (state is TaskState.FAILED):
        yield Violation(field="failure", message="must be set for a failed task, and only for one")
    elif state is TaskState.FAILED:
        yield from _failure_violations(message.failure)
    if message.lane_mode and message.lane_mode not in _MODES:
        yield Violation(field="lane_mode", message="is not known")
    if message.fallback_reason and message.fallback_reason not in _REASONS:
        yield Violation(field="fallback_reason", message="is not known")


def _size_violations(message: operator_service_pb2.ImportedTask, *, is_done: bool) -> Iterator[Violation]:
    if not is_done:
        for name in ("result_size_bytes", "preview_size_bytes"):
            if getattr(message, name):
                yield Violation(field=name, message="must be 0: only a done task has files")
        return
    if not 1 <= message.result_size_bytes <= MAX_VIDEO_BYTES:
        yield Violation(field="result_size_bytes", message=f"must be 1 to {MAX_VIDEO_BYTES}: a done task has a result")
    if not 0 <= message.preview_size_bytes <= MAX_IMAGE_BYTES:
        yield Violation(field="preview_size_bytes", message=f"must be 0 to {MAX_IMAGE_BYTES}")


def _failure_violations(failure: generation_pb2.Failure) -> Iterator[Violation]:
    if failure.code not in _CODES:
        yield Violation(field="failure.code", message=f"must be one of {', '.join(_CODES)}")
    if not failure.message.strip():
        yield Violation(field="failure.message", message="must say something")
    yield from _text_violations("failure.message", failure.message, MAX_MESSAGE_CHARACTERS)


def _request_violations(request: generation_pb2.GenerationRequest) -> Iterator[Violation]:
    rules = MODELS.get(request.model)
    if rules is None:
        yield Violation(field="request.model", message=f"must be one of {', '.join(MODELS)}")
    elif request.mode not in rules.modes:
        yield Violation(field="request.mode", message=f"must be one of {', '.join(rules.modes)}")
    for name, limit in _TEXTS.items():
        yield from _text_violations(f"request.{name}", getattr(request, name), limit)
    for field, value in request.ListFields():
        if field.name in _IMAGES:
            yield Violation(field=f"request.{field.name}", message="must be left out: images of requests are not taken over")
        elif field.name in _POSITIVE and not 1 <= value <= _POSITIVE[field.name]:
            yield Violation(field=f"request.{field.name}", message=f"must be 1 to {_POSITIVE[field.name]}, or unset")
        elif isinstance(value, float) and not math.isfinite(value):
            yield Violation(field=f"request.{field.name}", message="must be a finite number, or unset")


def _text_violations(field: str, text: str, limit: int) -> Iterator[Violation]:
    if len(text) > limit:
        yield Violation(field=field, message=f"must have at most {limit} characters, it has {len(text)}")
    if not text.isprintable() and _CONTROL.search(text):
        yield Violation(field=field, message="must not contain control characters other than tab, newline and carriage return")


def _time_violations(message: operator_service_pb2.ImportedTask, now: datetime) -> Iterator[Violation]:
    for name in ("created_at", "updated_at"):
        if not message.HasField(name):
            yield Violation(field=name, message="is required")
            continue
        try:
            moment = _moment(getattr(message, name))
        except (ValueError, OverflowError):
            yield Violation(field=name, message="is no time that there can be")
            continue
        if moment > now + _FUTURE:
            yield Violation(field=name, message="lies in the future")


def _moment(stamp: Timestamp) -> datetime:
    if not 0 <= stamp.nanos < 1_000_000_000:
        msg = "nanos must be 0 to 999999999"
        raise ValueError(msg)
    return stamp.ToDatetime(tzinfo=UTC)
