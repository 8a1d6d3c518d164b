"""Values to rows and back; every store keeps these rows, so that all of them return the same values.

A row is a tuple in the order of its COLUMNS: text, whole numbers, booleans, None, and times as the engine keeps them (`Moment`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from admission.core.lanes import KnownLane, LaneSpec, ModelPolicy
from admission.core.learned import Learned, Place, Rate
from admission.core.tasks import (
    INPUT_PREFIX,
    TERMINAL,
    Event,
    Failure,
    FailureCode,
    FallbackReason,
    LaneId,
    LaneMode,
    MemoryRecord,
    Model,
    Result,
    Stage,
    Task,
    TaskId,
    TaskState,
    input_keys,
)
from admission.store import fits
from admission.store.port import EventQuery, TaskQuery

Row = tuple[Any, ...]
Moment = Callable[[datetime], object]
"""Makes what the engine keeps of an aware UTC time."""

UNFINISHED = (TaskState.LEASED.value, TaskState.QUEUED.value)
ENDED = tuple(sorted(state.value for state in TERMINAL))

# What a task was accepted with comes first: it is written once. The rest is replaced by every write.
FIXED_TASK_COLUMNS = (
    "task_id", "owner", "request_id", "fingerprint", "model", "mode", "parameters", "width", "height", "tokens", "created_at",
    "trace",
)  # fmt: skip
CHANGING_TASK_COLUMNS = (
    "state", "updated_at", "queued_at", "leased_at", "attempt", "lost_lanes", "lane_mode", "fallback_reason", "lane_id", "boot_id",
    "is_withdrawn", "progress", "stage", "stage_detail", "failure", "result",
)  # fmt: skip
_PARAMETERS = FIXED_TASK_COLUMNS.index("parameters")
TASK_COLUMNS = FIXED_TASK_COLUMNS + CHANGING_TASK_COLUMNS
EVENT_COLUMNS = (
    "sequence", "task_id", "event_type", "created_at", "value", "reason", "attempt", "lane_id", "model", "memory", "is_loose",
)  # fmt: skip
LANE_COLUMNS = ("lane_id", "mode", "models", "device", "is_drained", "memory", "retired")
LEARNED_COLUMNS = ("gpu", "model", "placement", "figures")
POLICY_COLUMNS = ("model", "is_fallback_manual", "quota_denied_until", "quota_reason")


def utc_now() -> datetime:
    """The machine's time, aware."""
    return datetime.now(UTC)


def utc(moment: datetime) -> datetime:
    """The same time in UTC.

    Raises:
        ValueError: it is naive.
    """
    if moment.tzinfo is UTC:
        return moment
    if moment.tzinfo is None:
        msg = f"{moment.isoformat()} has no time zone: only aware times are stored"
        raise ValueError(msg)
    return moment.astimezone(UTC)


def task_row(task: Task, moment: Moment) -> Row:
    """The row of a durable task.

    Raises:
        ValueError: it is held, a time is naive, or a value is one that JSON does not have.
        TypeError: a value is one that JSON does not have.
    """
    if task.state is TaskState.HELD:
        msg = f"task {task.task_id} is held: only accepted tasks are stored"
        raise ValueError(msg)
    created_at = moment(task.created_at)
    # The first write of most tasks has one time in all three places.
    updated_at = created_at if task.updated_at is task.created_at else moment(task.updated_at)
    queued_at = updated_at if task.queued_at is task.updated_at else None if task.queued_at is None else moment(task.queued_at)
    return (
        task.task_id,
        task.owner,
        task.request_id or None,
        task.fingerprint,
        task.model,
        task.mode,
        json_of(task.parameters),
        _extent(task.parameters, "width"),
        _extent(task.parameters, "height"),
        task.tokens,
        created_at,
        task.trace or None,
        task.state.value,
        updated_at,
        queued_at,
        None if task.leased_at is None else moment(task.leased_at),
        task.attempt,
        task.lost_lanes,
        None if task.lane_mode is None else task.lane_mode.value,
        None if task.fallback_reason is None else task.fallback_reason.value,
        task.lane_id,
        task.boot_id,
        task.is_withdrawn,
        task.progress,
        task.stage.value,
        task.stage_detail,
        None if task.failure is None else json_of(asdict(task.failure)),
        None if task.result is None else json_of(asdict(task.result)),
    )


def task_of(row: Sequence[Any]) -> Task:
    """The task of a row of aware times."""
    (
        task_id, owner, request_id, fingerprint, model, mode, parameters, _width, _height, tokens, created_at, trace,
        state, updated_at, queued_at, leased_at, attempt, lost_lanes, lane_mode, fallback_reason, lane_id, boot_id,
        is_withdrawn, progress, stage, stage_detail, failure, result,
    ) = row  # fmt: skip
    return Task(
        task_id=task_id,
        owner=owner,
        model=model,
        mode=mode,
        parameters=value_of(parameters),
        tokens=tokens,
        state=_STATES[state],
        created_at=created_at,
        updated_at=updated_at,
        queued_at=queued_at,
        leased_at=leased_at,
        attempt=attempt,
        lost_lanes=lost_lanes,
        lane_mode=None if lane_mode is None else LaneMode(lane_mode),
        fallback_reason=None if fallback_reason is None else FallbackReason(fallback_reason),
        lane_id=lane_id,
        boot_id=boot_id,
        is_withdrawn=bool(is_withdrawn),
        request_id=request_id or "",
        fingerprint=fingerprint,
        progress=progress,
        stage=_STAGES[stage],
        stage_detail=stage_detail,
        failure=None if failure is None else _failure_of(value_of(failure)),
        result=None if result is None else Result(**value_of(result)),
        trace=trace or "",
    )


def input_keys_of(row: Row) -> frozenset[str]:
    """The object keys of the input images of a task's row."""
    parameters = row[_PARAMETERS]
    # Most have none, and searching the text is far cheaper than walking through the values.
    return input_keys(value_of(parameters)) if f'"{INPUT_PREFIX}' in parameters else frozenset()


def lane_row(lane: KnownLane) -> Row:
    """The row of a lane."""
    spec = lane.spec
    memory = None if spec.memory is None else json_of(fits.memory_json(spec.memory))
    retired = {"boot": lane.retired_boot, "placements": lane.retired} if lane.retired else None
    return (
        spec.lane_id, spec.mode.value, json_of(spec.models), spec.device, lane.is_drained, memory,
        None if retired is None else json_of(retired),
    )  # fmt: skip


def lane_of(row: Sequence[Any]) -> KnownLane:
    """The lane of a row."""
    lane_id, mode, models, device, is_drained, memory, retired = row
    spec = LaneSpec(
        lane_id=LaneId(lane_id),
        mode=LaneMode(mode),
        models=tuple(Model(model) for model in value_of(models)),
        device=device,
        memory=None if memory is None else fits.memory_of(value_of(memory)),
    )
    if retired is None:
        return KnownLane(spec=spec, is_drained=bool(is_drained))
    known = value_of(retired)
    placements = tuple((Model(model), placement) for model, placement in known["placements"])
    return KnownLane(spec=spec, is_drained=bool(is_drained), retired=placements, retired_boot=known["boot"])


def learned_row(learned: Learned) -> Row:
    """The row of what was learned about one place."""
    rate = None if learned.rate is None else asdict(learned.rate)
    # Its keys are numbers, which the quick way does not take.
    return (*learned.place, _JSON.encode({"excesses": learned.excesses, "rate": rate}))


def learned_of(row: Sequence[Any]) -> Learned:
    """What the row holds."""
    gpu, model, placement, figures = row
    values = value_of(figures)
    rate = None if values["rate"] is None else Rate(**values["rate"])
    # Factors, which were kept before, say nothing about sizes.
    excesses = {phase: {int(size): over_bytes for size, over_bytes in known.items()} for phase, known in values.get("excesses", {}).items()}
    return Learned(place=Place(gpu, Model(model), placement), excesses=excesses, rate=rate)


def policy_row(policy: ModelPolicy, moment: Moment) -> Row:
    """The row of a policy."""
    denied_until = None if policy.quota_denied_until is None else moment(policy.quota_denied_until)
    return (policy.model, policy.is_fallback_manual, denied_until, policy.quota_reason)


def policy_of(row: Sequence[Any]) -> ModelPolicy:
    """The policy of a row of aware times."""
    model, is_fallback_manual, quota_denied_until, quota_reason = row
    return ModelPolicy(
        model=Model(model),
        is_fallback_manual=bool(is_fallback_manual),
        quota_denied_until=quota_denied_until,
        quota_reason=quota_reason,
    )


def event_row(event: Event, moment: Moment) -> Row:
    """The row of an event that has no number yet, as if it named a stored task; `numbered` says what is true."""
    return (
        0,
        event.task_id,
        event.event_type,
        moment(event.created_at),
        # Often the value of an enum, which is a text and more; rows have plain ones.
        str(event.value),
        str(event.reason),
        event.attempt,
        event.lane_id,
        event.model,
        None if event.memory is None else json_of(asdict(event.memory)),
        False,
    )


def numbered(row: Row, sequence: int, *, is_loose: bool) -> Row:
    """The event's row under its number; `is_loose`: it names no stored task."""
    return (sequence, *row[1:-1], is_loose)


def event_of(row: Sequence[Any]) -> Event:
    """The event of a row of aware times."""
    sequence, task_id, event_type, created_at, value, reason, attempt, lane_id, model, memory, _is_loose = row
    return Event(
        event_type=event_type,
        created_at=created_at,
        value=value,
        reason=reason,
        task_id=None if task_id is None else TaskId(task_id),
        attempt=attempt,
        lane_id=None if lane_id is None else LaneId(lane_id),
        model=None if model is None else Model(model),
        memory=None if memory is None else MemoryRecord(**value_of(memory)),
        sequence=sequence,
    )


def acceptance(task: Task) -> tuple[datetime, datetime, str]:
    """Sorts tasks by their acceptance."""
    return (task.queued_at or task.created_at, task.created_at, task.task_id)


def stale(epoch: int, newest: int) -> str:
    """What to say to a writer whose epoch is not the newest."""
    return f"epoch {epoch} may not write: the newest is {newest}"


def first_index(query: TaskQuery) -> int:
    """How many tasks lie before the page.

    Raises:
        ValueError: the page or its size is below 1.
    """
    if query.page < 1 or query.page_size < 1:
        msg = f"page and page_size count from 1, not {query.page} and {query.page_size}"
        raise ValueError(msg)
    return (query.page - 1) * query.page_size


def check_events_query(query: EventQuery) -> None:
    """Raises ValueError when it asks for no event at all."""
    if query.limit < 1:
        msg = f"the limit of events counts from 1, not {query.limit}"
        raise ValueError(msg)


def _extent(parameters: Mapping[str, object], name: str) -> int:
    value = parameters.get(name)
    return value if isinstance(value, int) else 0


def _failure_of(value: Mapping[str, str]) -> Failure:
    return Failure(code=FailureCode(value["code"]), message=value["message"])


def value_of(text: str) -> Any:
    """The value of a text that `json_of` wrote, in whatever release."""
    return _DECODE(text)[0]


def json_of(value: object) -> str:
    """The value as JSON text, in ASCII: a database may have any encoding.

    Raises:
        ValueError, TypeError: it holds what JSON does not have.
    """
    try:
        quick = orjson.dumps(value, default=_plain, option=_STRICT)
    except TypeError:
        # A number of over 64 bits, a key that is no text, half of a surrogate pair, or a value that is refused there too.
        return _JSON.encode(value)
    # It leaves other letters as they are, and writes null for a number that is none or infinite, which is to be refused.
    return quick.decode() if quick.isascii() and b"null" not in quick else _JSON.encode(value)


def _plain(value: object) -> object:
    """A read-only mapping is as good as a dict; nothing else is taken silently."""
    if isinstance(value, Mapping):
        return dict(value)
    msg = f"{type(value).__name__} is not a JSON value"
    raise TypeError(msg)


# One for all rows: `json.dumps` with options makes a new one at every call.
_JSON = json.JSONEncoder(default=_plain, allow_nan=False, separators=(",", ":"))
# Without the search for space around the value, as nothing but `json_of` wrote it.
_DECODE = json.JSONDecoder().raw_decode
# What orjson would take beyond JSON, it hands to `_plain`; but for UUIDs and members of plain enums, which no row has.
_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


# Looking up is a third of the cost of calling the enum, and a restart does it for every unfinished task.
_STATES: Mapping[str, TaskState] = {state.value: state for state in TaskState}
_STAGES: Mapping[str, Stage] = {stage.value: stage for stage in Stage}
