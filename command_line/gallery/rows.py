"""From a row of an existing gallery to a task that ImportTask takes; pure. What cannot be taken over says why, whatever the row holds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp
from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.generation.v1 import generation_pb2

from command_line.gallery.database import Row
from runtime.rules.catalogue import FIELDS, MODELS, FieldRule, Kind
from runtime.rules.values import CONTROL_CHARACTERS

IMAGE_MODELS = frozenset({"pony", "flux"})
LOST = "It had not ended when it was taken over."

_UNFINISHED = frozenset({"pending", "queued", "processing", "running"})
_STATES = {
    "done": task_pb2.TASK_STATE_DONE,
    "completed": task_pb2.TASK_STATE_DONE,
    "failed": task_pb2.TASK_STATE_FAILED,
    "cancelled": task_pb2.TASK_STATE_CANCELLED,
    "canceled": task_pb2.TASK_STATE_CANCELLED,
}
_MODES = {"dedicated": task_pb2.LANE_MODE_DEDICATED, "degraded_shared": task_pb2.LANE_MODE_DEGRADED_SHARED}
_REASONS = {
    "capacity": task_pb2.FALLBACK_REASON_CAPACITY,
    "quota": task_pb2.FALLBACK_REASON_QUOTA,
    "manual": task_pb2.FALLBACK_REASON_MANUAL,
}
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_UNSAFE = re.compile(rf"[{CONTROL_CHARACTERS}\ud800-\udfff]")
_MAX_ERROR_CHARACTERS = 500
_MAX_CHOICE_CHARACTERS = 64
_MAX_SHOWN_CHARACTERS = 80
_INT32 = range(-(2**31), 2**31)

_RULES: Mapping[str, FieldRule] = {
    # Names of earlier settings beside those of the contract.
    "frames": next(rule for rule in FIELDS if rule.name == "num_frames"),
    **{name: rule for rule in FIELDS for name in (*rule.aliases, rule.name)},
}
_IMAGE_KINDS = frozenset({Kind.IMAGE, Kind.KEYFRAMES})
# Said by columns and by the state; a copy among the parameters is no news.
_SAID_ELSEWHERE = frozenset({"id", "task_id", "status", "type", "model", "mode"})
_COLUMNS = ("prompt", "negative_prompt", "width", "height", "seed")
# What a render was asked for; 0 and less never was.
_POSITIVE = frozenset({"width", "height", "num_frames", "fps", "steps"})


class Kept(StrEnum):
    """Why a row stays behind."""

    IMAGE_MODEL = "image_model"
    """It belongs to the image models, which stay where they are."""
    UNFINISHED = "unfinished"
    """It waits or runs in the earlier system."""
    REFUSED = "refused"
    """Something about it is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaysBehind:
    """A row that is not taken over."""

    row_id: str
    kept: Kept
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A row to take over.

    Attributes:
        task: all of it but the media type, which its file tells.
        result: path of the video as the row says it; empty: none.
        preview: of its preview.
        unknown: names of parameters that mean nothing here.
        unusable: names of parameters whose values do.
        images: input images that it had.
        is_cleaned: control characters of a text became spaces.
    """

    task: operator_service_pb2.ImportedTask
    result: str
    preview: str
    unknown: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    is_cleaned: bool = False


class _RefusedRowError(Exception):
    """The message completes the row's id."""


def read_row(row: Row, *, failed_unfinished: bool = False) -> Wanted | StaysBehind:
    """What the row is worth. `failed_unfinished`: a task that had not ended becomes a failed one."""
    row_id = shown(row.get("id"))
    model, kind, status = (_word(row.get(name)) for name in ("model", "type", "status"))
    if model in IMAGE_MODELS or kind == "image":
        return StaysBehind(row_id=row_id, kept=Kept.IMAGE_MODEL, reason=f"model {shown(model)} makes images")
    if status in _UNFINISHED and not failed_unfinished:
        return StaysBehind(row_id=row_id, kept=Kept.UNFINISHED, reason=f"it is {status} in the earlier system")
    try:
        return _wanted(row, "lost" if status in _UNFINISHED else status)
    except _RefusedRowError as error:
        return StaysBehind(row_id=row_id, kept=Kept.REFUSED, reason=str(error))


def shown(value: object) -> str:
    """A value of unknown content, safe for a terminal and not long."""
    text = "(none)" if value is None else str(value)
    # Before the rest, as it may be of any length.
    text = " ".join("".join(one if one.isprintable() else " " for one in text[: 2 * _MAX_SHOWN_CHARACTERS]).split())
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[: _MAX_SHOWN_CHARACTERS - 1]}…"


def _wanted(row: Row, status: str) -> Wanted:
    state = task_pb2.TASK_STATE_FAILED if status == "lost" else _STATES.get(status)
    if state is None:
        msg = f"its status {shown(row.get('status'))} is not one of done, failed, cancelled"
        raise _RefusedRowError(msg)
    asked = _Asked(row)
    created_at = _moment(row, "created_at")
    task = operator_service_pb2.ImportedTask(
        task_id=_id(row.get("id")),
        state=state,
        request=asked.request(),
        lane_mode=_MODES.get(_word(row.get("lane_mode")), task_pb2.LANE_MODE_UNSPECIFIED),
        fallback_reason=_REASONS.get(_word(row.get("fallback_reason")), task_pb2.FALLBACK_REASON_UNSPECIFIED),
        created_at=created_at,
        updated_at=created_at if row.get("updated_at") in (None, "") else _moment(row, "updated_at"),
    )
    if state == task_pb2.TASK_STATE_FAILED:
        task.failure.CopyFrom(generation_pb2.Failure(code="render_failed", message=_error(row.get("error_msg"), status)))
    is_done = state == task_pb2.TASK_STATE_DONE
    return Wanted(
        task=task,
        result=_path(row.get("result_path")) if is_done else "",
        preview=_path(row.get("preview_path")) if is_done else "",
        unknown=tuple(asked.unknown),
        unusable=tuple(asked.unusable),
        images=tuple(asked.images),
        is_cleaned=asked.is_cleaned,
    )


class _Asked:
    """What the row's task was asked for, from its columns, else from its parameters."""

    def __init__(self, row: Row) -> None:
        self.unknown: list[str] = []
        self.unusable: list[str] = []
        self.images: list[str] = []
        self.is_cleaned = False
        self._model = _model(row)
        parameters = _parameters(row.get("parameters"))
        self._mode = _mode(self._model, row.get("mode") or parameters.get("mode"))
        self._values: dict[str, str | int | float] = {}
        said = {name: value for name in _COLUMNS if (value := row.get(name)) is not None}
        for name, value in parameters.items():
            if name not in said:
                self._take(str(name), value)
        for name, value in said.items():
            self._take(name, value)

    def request(self) -> generation_pb2.GenerationRequest:
        """As it travels."""
        return generation_pb2.GenerationRequest(model=self._model, mode=self._mode, **self._values)  # type: ignore[arg-type]

    def _take(self, name: str, value: object) -> None:
        rule = _RULES.get(name)
        if rule is None:
            self.unknown += [] if name in _SAID_ELSEWHERE else [shown(name)]
        elif rule.kind in _IMAGE_KINDS:
            self.images += [name] if value else []
        elif rule.name in _SAID_ELSEWHERE or value is None or (name != rule.name and rule.name in self._values):
            # The field's own name wins over its other names.
            pass
        elif (usable := self._usable(rule, value)) is None:
            self.unusable.append(name)
        else:
            self._values[rule.name] = usable

    def _usable(self, rule: FieldRule, value: object) -> str | int | float | None:
        match rule.kind:
            case Kind.INTEGER:
                number = _integer(value)
                return None if number is None or (rule.name in _POSITIVE and number < 1) else number
            case Kind.NUMBER:
                return _number(value)
            case Kind.CHOICE:
                return value if isinstance(value, str) and len(value) <= _MAX_CHOICE_CHARACTERS and not _UNSAFE.search(value) else None
            case _:
                return self._text(rule.name, value)

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            msg = f"its {name} is not text"
            raise _RefusedRowError(msg)
        cleaned = _UNSAFE.sub(" ", value)
        self.is_cleaned |= cleaned != value
        return cleaned


def _id(value: object) -> str:
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str) or _ID.fullmatch(text) is None:
        raise _RefusedRowError("its id must have 1 to 64 characters of 0-9, A-Z, a-z, _ and -")
    if text.startswith("image-"):
        raise _RefusedRowError("its id begins with image-: those ids are the image models'")
    return text


def _model(row: Row) -> str:
    model = _word(row.get("model"))
    if model not in MODELS:
        msg = f"its model {shown(row.get('model'))} is not one of {', '.join(MODELS)}"
        raise _RefusedRowError(msg)
    return model


def _mode(model: str, value: object) -> str:
    rules = MODELS[model]
    if value in (None, ""):
        return rules.default_mode
    if value not in rules.modes:
        msg = f"its mode {shown(value)} is not one of {', '.join(rules.modes)}"
        raise _RefusedRowError(msg)
    return str(value)


def _parameters(value: object) -> Mapping[object, object]:
    if value in (None, ""):
        return {}
    try:
        parsed = json.loads(value if isinstance(value, str | bytes) else "")
    except (ValueError, RecursionError):
        raise _RefusedRowError("its parameters are no JSON") from None
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise _RefusedRowError("its parameters are JSON, but no object")
    return parsed


def _moment(row: Row, name: str) -> Timestamp:
    """Without a zone it is UTC."""
    value = row.get(name)
    try:
        if not isinstance(value, str):
            raise ValueError
        moment = datetime.fromisoformat(value.strip())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        stamp = Timestamp()
        stamp.FromDatetime(moment)
    except (ValueError, OverflowError):
        msg = f"its {name} is no ISO time: {shown(value)}"
        raise _RefusedRowError(msg) from None
    return stamp


def _error(value: object, status: str) -> str:
    if status == "lost":
        return LOST
    text = " ".join(_UNSAFE.sub(" ", value).split()) if isinstance(value, str) else ""
    return text[:_MAX_ERROR_CHARACTERS] or "The task failed."


def _path(value: object) -> str:
    return value if isinstance(value, str) else ""


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared as floats, NaN and infinities are in no range.
    return int(value) if _INT32.start <= value < _INT32.stop and value == int(value) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
