"""Values to rows and back; every store keeps these rows, so that all of them return the same values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from admission.core.lanes import LaneSpec
from admission.core.tasks import (
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
)
from admission.store.port import Batch, Session, TaskQuery

Row = dict[str, Any]
"""Column names to values: text, whole numbers, aware datetimes, None."""

UNFINISHED = (TaskState.QUEUED.value, TaskState.LEASED.value)
SESSIONS_KEPT = timedelta(days=1)
"""How long an ended session is still known, so that its owner is told that it ended."""


def utc_now() -> datetime:
    """The machine's time, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRows:
    """A batch as rows. One row per task and lane, the last one given: merged batches may hold a task several times."""

    tasks: Sequence[Row]
    lanes: Sequence[Row]
    events: Sequence[Row]
    deleted: Sequence[str]


def batch_rows(batch: Batch) -> BatchRows:
    """The rows of a batch.

    Raises:
        ValueError: a held task, a naive datetime, or a value that JSON does not have.
        TypeError: a value that JSON does not have.
    """
    return BatchRows(
        tasks=[task_row(task) for task in {task.task_id: task for task in batch.tasks}.values()],
        lanes=[lane_row(spec) for spec in {spec.lane_id: spec for spec in batch.lanes}.values()],
        events=[event_row(event) for event in batch.events],
        deleted=tuple(batch.deleted),
    )


def task_row(task: Task) -> Row:
    """The row of a durable task."""
    if task.state is TaskState.HELD:
        msg = f"task {task.task_id} is held: only accepted tasks are stored"
        raise ValueError(msg)
    return {
        "task_id": task.task_id,
        "owner": task.owner,
        "model": task.model,
        "mode": task.mode,
        "parameters": _to_json(task.parameters),
        "width": _extent(task.parameters, "width"),
        "height": _extent(task.parameters, "height"),
        "tokens": task.tokens,
        "state": task.state.value,
        "created_at": _utc(task.created_at),
        "updated_at": _utc(task.updated_at),
        "queued_at": None if task.queued_at is None else _utc(task.queued_at),
        "leased_at": None if task.leased_at is None else _utc(task.leased_at),
        "attempt": task.attempt,
        "lost_lanes": task.lost_lanes,
        "lane_mode": None if task.lane_mode is None else task.lane_mode.value,
        "fallback_reason": None if task.fallback_reason is None else task.fallback_reason.value,
        "lane_id": task.lane_id,
        "boot_id": task.boot_id,
        "is_withdrawn": task.is_withdrawn,
        "progress": task.progress,
        "stage": task.stage.value,
        "stage_detail": task.stage_detail,
        "failure": None if task.failure is None else _to_json(asdict(task.failure)),
        "result": None if task.result is None else _to_json(asdict(task.result)),
    }


def task_of(row: Row) -> Task:
    """The task of a row."""
    failure = None if row["failure"] is None else json.loads(row["failure"])
    return Task(
        task_id=TaskId(row["task_id"]),
        owner=row["owner"],
        model=Model(row["model"]),
        mode=row["mode"],
        parameters=json.loads(row["parameters"]),
        tokens=row["tokens"],
        state=TaskState(row["state"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        queued_at=row["queued_at"],
        leased_at=row["leased_at"],
        attempt=row["attempt"],
        lost_lanes=row["lost_lanes"],
        lane_mode=None if row["lane_mode"] is None else LaneMode(row["lane_mode"]),
        fallback_reason=None if row["fallback_reason"] is None else FallbackReason(row["fallback_reason"]),
        lane_id=None if row["lane_id"] is None else LaneId(row["lane_id"]),
        boot_id=row["boot_id"],
        is_withdrawn=bool(row["is_withdrawn"]),
        progress=row["progress"],
        stage=Stage(row["stage"]),
        stage_detail=row["stage_detail"],
        failure=None if failure is None else Failure(code=FailureCode(failure["code"]), message=failure["message"]),
        result=None if row["result"] is None else Result(**json.loads(row["result"])),
    )


def lane_row(spec: LaneSpec) -> Row:
    """The row of a lane's specification."""
    return {"lane_id": spec.lane_id, "mode": spec.mode.value, "models": _to_json(spec.models), "device": spec.device}


def lane_of(row: Row) -> LaneSpec:
    """The specification of a row."""
    return LaneSpec(
        lane_id=LaneId(row["lane_id"]),
        mode=LaneMode(row["mode"]),
        models=tuple(Model(model) for model in json.loads(row["models"])),
        device=row["device"],
    )


def event_row(event: Event) -> Row:
    """The row of an event, without its number."""
    return {
        "task_id": event.task_id,
        "event_type": event.event_type,
        "created_at": _utc(event.created_at),
        "value": event.value,
        "reason": event.reason,
        "attempt": event.attempt,
        "lane_id": event.lane_id,
        "memory": None if event.memory is None else _to_json(asdict(event.memory)),
    }


def event_of(row: Row) -> Event:
    """The event of a row."""
    return Event(
        event_type=row["event_type"],
        created_at=row["created_at"],
        value=row["value"],
        reason=row["reason"],
        task_id=None if row["task_id"] is None else TaskId(row["task_id"]),
        attempt=row["attempt"],
        lane_id=None if row["lane_id"] is None else LaneId(row["lane_id"]),
        memory=None if row["memory"] is None else MemoryRecord(**json.loads(row["memory"])),
    )


def session_row(session: Session) -> Row:
    """The row of a session."""
    return {"token_sha256": session.token_sha256, "session_id": session.session_id, "expires_at": _utc(session.expires_at)}


def session_of(row: Row) -> Session:
    """The session of a row."""
    return Session(session_id=row["session_id"], token_sha256=row["token_sha256"], expires_at=row["expires_at"])


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


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        msg = f"{moment.isoformat()} has no time zone: only aware times are stored"
        raise ValueError(msg)
    return moment.astimezone(UTC)


def _extent(parameters: Mapping[str, object], name: str) -> int:
    value = parameters.get(name)
    return value if isinstance(value, int) else 0


def _to_json(value: object) -> str:
    return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":"))


def _plain(value: object) -> object:
    """A read-only mapping is as good as a dict; nothing else is taken silently."""
    if isinstance(value, Mapping):
        return dict(value)
    msg = f"{type(value).__name__} is not a JSON value"
    raise TypeError(msg)
