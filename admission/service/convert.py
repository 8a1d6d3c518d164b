"""Between messages and core values, for clients, the bridge and operators. With `convert_lanes`, the only module that sees both."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from google.protobuf import duration_pb2, json_format, timestamp_pb2
from warmlane.admission.v1 import admission_service_pb2, operator_service_pb2, task_pb2
from warmlane.generation.v1 import generation_pb2

from admission.core.lanes import Availability
from admission.core.tasks import (
    FallbackReason,
    LaneMode,
    MemoryRecord,
    Result,
    Stage,
    TaskId,
    TaskState,
)
from admission.engine_types import TaskView
from admission.service import convert_loads
from admission.store.port import TaskPage, TaskQuery, TaskSort
from runtime.rules.catalogue import MODELS
from runtime.rules.request import InvalidRequestError, Violation
from runtime.rules.schema import parameters_schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from admission.core.refusals import ModelLimits, SizeLimit
    from admission.core.tasks import Event, Task
    from admission.engine_types import CountersView, DegradedView, LaneView, QueueView, Snapshot, StoreView, TaskChange
    from admission.store.port import EventPage
    from runtime.images import CheckedImage
    from runtime.rules.catalogue import ModelRules

MAX_PAGE_SIZE = 100
DEFAULT_PAGE_SIZE = 20
MAX_OWNER_CHARACTERS = 128
OWNER_FORM = f"must have at most {MAX_OWNER_CHARACTERS} characters, none of them NUL"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Those of our own are 32 lower-case hex digits; tasks that were taken over keep the ids that they had.
_TASK_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_LANE_ID = re.compile(r"[a-z0-9-]{1,63}")

_STATES: dict[TaskState, task_pb2.TaskState.ValueType] = {
    state: task_pb2.TaskState.Value(f"TASK_STATE_{state.name}") for state in TaskState if state is not TaskState.HELD
}
_STATES_BACK = {number: state for state, number in _STATES.items()}
_STAGES = {stage: task_pb2.Stage.Value(f"STAGE_{stage.name}") for stage in Stage}
_MODES = {mode: task_pb2.LaneMode.Value(f"LANE_MODE_{mode.name}") for mode in LaneMode}
_REASONS = {reason: task_pb2.FallbackReason.Value(f"FALLBACK_REASON_{reason.name}") for reason in FallbackReason}
_AVAILABILITIES = {one: operator_service_pb2.Availability.Value(f"AVAILABILITY_{one.name}") for one in Availability}
_SORTS_BACK = {
    admission_service_pb2.TASK_SORT_UNSPECIFIED: TaskSort.CREATED_AT,
    **{admission_service_pb2.TaskSort.Value(f"TASK_SORT_{sort.name}"): sort for sort in TaskSort},
}

_M = TypeVar("_M", bound="Message")


def task_id(text: str) -> TaskId | None:
    """The id, or None when no task can have it."""
    return TaskId(text) if _TASK_ID.fullmatch(text) else None


def may_be_lane(text: str) -> bool:
    """Whether a lane can have this name."""
    return _LANE_ID.fullmatch(text) is not None


def may_be_owner(text: str) -> bool:
    """Whether tasks can have this owner. No engine but SQLite takes a NUL."""
    return len(text) <= MAX_OWNER_CHARACTERS and "\0" not in text


def fresh(task: Task) -> TaskView:
    """A task of which only its own state is known."""
    return TaskView(task=task, queue_position=None, eta_s=None)


def is_done(view: TaskView) -> bool:
    """Its result is committed."""
    return view.task.state is TaskState.DONE


def task(view: TaskView, events: Sequence[Event] = ()) -> task_pb2.Task:
    """The task as clients see it."""
    of = view.task
    return task_pb2.Task(
        task_id=of.task_id,
        state=_STATES[of.state],
        request=request(of),
        progress=of.progress,
        stage=_STAGES[of.stage],
        stage_detail=of.stage_detail,
        lane_mode=_MODES[of.lane_mode] if of.lane_mode is not None else task_pb2.LANE_MODE_UNSPECIFIED,
        fallback_reason=_reason(of.fallback_reason),
        attempt=of.attempt,
        lane_id=of.lane_id or "",
        queue_position=view.queue_position,
        eta=duration(view.eta_s) if view.eta_s is not None else None,
        failure=generation_pb2.Failure(code=of.failure.code, message=of.failure.message) if of.failure is not None else None,
        result=_result(of.result) if of.result is not None else None,
        created_at=timestamp(of.created_at),
        updated_at=timestamp(of.updated_at),
        events=[_event(event) for event in events],
    )


def acceptance(of: Task, *, is_duplicate: bool) -> admission_service_pb2.SubmitTaskResponse:
    """The answer to who submitted it."""
    if of.state is not TaskState.QUEUED or of.attempt or of.stage_detail or is_duplicate:
        return admission_service_pb2.SubmitTaskResponse(task=task(fresh(of)), is_duplicate=is_duplicate)
    # Of nearly every one: what has a value, and made in its place. A message that is put into another one is copied whole.
    created_at, updated_at = _seconds_and_nanos(of.created_at), _seconds_and_nanos(of.updated_at)
    try:
        return admission_service_pb2.SubmitTaskResponse(
            task={  # type: ignore[arg-type]  # the stubs name no dict, which protobuf takes for any message
                "task_id": of.task_id,
                "state": task_pb2.TASK_STATE_QUEUED,
                "stage": _STAGES[of.stage],
                "fallback_reason": _reason(of.fallback_reason),
                "request": of.parameters,
                "created_at": created_at,
                "updated_at": updated_at,
            }
        )
    except (TypeError, ValueError):
        # See `request`.
        return admission_service_pb2.SubmitTaskResponse(task=task(fresh(of)))


def task_change(of: TaskChange) -> admission_service_pb2.WatchTaskResponse:
    """What a watcher of a task is told."""
    return admission_service_pb2.WatchTaskResponse(
        task=task(of.view), events=[_event(event) for event in of.events], last_sequence=of.last_sequence
    )


def event_page(page: EventPage) -> operator_service_pb2.WatchEventsResponse:
    """What a watcher of everything is told."""
    return operator_service_pb2.WatchEventsResponse(events=[_event(event) for event in page.events], last_sequence=page.last_sequence)


def task_query(request: admission_service_pb2.ListTasksRequest) -> TaskQuery:
    """The page that is asked for; raises InvalidRequestError."""
    violations = []
    if request.page < 0:
        violations.append(Violation(field="page", message="must be at least 1, or 0 for the first page"))
    if not 0 <= request.page_size <= MAX_PAGE_SIZE:
        violations.append(Violation(field="page_size", message=f"must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}"))
    if request.sort not in _SORTS_BACK:
        violations.append(Violation(field="sort", message="is not a known order"))
    if "\0" in request.model:
        violations.append(Violation(field="model", message="must not contain NUL"))
    if not may_be_owner(request.only_owner):
        violations.append(Violation(field="only_owner", message=OWNER_FORM))
    if any(state not in _STATES_BACK for state in request.states):
        violations.append(Violation(field="states", message="has an unknown state"))
    if violations:
        raise InvalidRequestError(tuple(violations))
    return TaskQuery(
        page=request.page or 1,
        page_size=request.page_size or DEFAULT_PAGE_SIZE,
        sort=_SORTS_BACK[request.sort],
        model=request.model or None,
        states=frozenset(_STATES_BACK[state] for state in request.states),
        owner=request.only_owner or None,
    )


def task_page(page: TaskPage) -> admission_service_pb2.ListTasksResponse:
    """The page, without events."""
    return admission_service_pb2.ListTasksResponse(tasks=[task(fresh(one)) for one in page.tasks], total=page.total)


def models(limits: Mapping[str, ModelLimits]) -> admission_service_pb2.ListModelsResponse:
    """Every model of the rule set, with what may be asked of it."""
    return admission_service_pb2.ListModelsResponse(models=[_model(rules, limits[rules.id]) for rules in MODELS.values()])


def uploaded(key: str, image: CheckedImage) -> admission_service_pb2.UploadInputResponse:
    """The reference to a stored image."""
    return admission_service_pb2.UploadInputResponse(
        image=generation_pb2.InputImage(key=key), width=image.width, height=image.height, media_type=image.media_type
    )


def result_file(view: TaskView, file: int) -> tuple[str, str]:
    """Key and media type of one file of a done task; raises InvalidRequestError when there is no such kind of file."""
    result = view.task.result
    if result is None:
        msg = f"task {view.task.task_id} is done and has no result"
        raise ValueError(msg)
    if file in (admission_service_pb2.RESULT_FILE_UNSPECIFIED, admission_service_pb2.RESULT_FILE_VIDEO):
        return result.video_key, result.media_type
    if file == admission_service_pb2.RESULT_FILE_PREVIEW:
        return result.preview_key, "image/jpeg"
    raise InvalidRequestError((Violation(field="file", message="is not a known file"),))


def snapshot(of: Snapshot, taken_at: datetime) -> operator_service_pb2.GetSnapshotResponse:
    """Everything at one instant."""
    return operator_service_pb2.GetSnapshotResponse(
        controller_epoch=of.controller_epoch,
        taken_at=timestamp(taken_at),
        lanes=[lane(one) for one in of.lanes],
        queues=[queue(one) for one in of.queues],
        degraded=_degraded(of.degraded),
        counters=_counters(of.counters),
        store=_store(of.store),
        started_at=timestamp(of.started_at) if of.started_at is not None else None,
    )


def lane(of: LaneView) -> operator_service_pb2.LaneSnapshot:
    """One lane."""
    message = operator_service_pb2.LaneSnapshot(
        lane_id=of.spec.lane_id,
        models=of.spec.models,
        lane_mode=_MODES[of.spec.mode],
        availability=_AVAILABILITIES[of.availability],
        warm=of.warm,
        resident_model=of.resident_model or "",
        reason=of.reason,
        last_report_age=duration(of.last_report_age_s) if of.last_report_age_s is not None else None,
        cold_starts=of.cold_starts,
        last_memory=memory(of.last_memory) if of.last_memory is not None else None,
        device=of.spec.device,
        drained=of.is_drained,
        retired_placements=[operator_service_pb2.RetiredPlacement(model=model, placement=placement) for model, placement in of.retired],
    )
    if of.spec.memory is not None:
        message.gpu, message.memory_budget_bytes = of.spec.memory.limits.gpu, of.spec.memory.limits.budget_bytes
    if of.load is not None:
        message.load.CopyFrom(convert_loads.load(of.load))
    if of.start_failure is not None:
        message.start_failure.CopyFrom(convert_loads.failure(of.start_failure))
    message.object_store_failure = of.object_store_failure
    if of.work is not None:
        message.task_id, message.attempt, message.progress = of.work.task_id, of.work.attempt, of.work.progress
    if of.finishing is not None:
        finishing = message.finishing
        finishing.task_id, finishing.attempt, finishing.progress = of.finishing.task_id, of.finishing.attempt, of.finishing.progress
    return message


def queue(of: QueueView) -> operator_service_pb2.QueueSnapshot:
    """One model's queue."""
    return operator_service_pb2.QueueSnapshot(
        model=of.model,
        depth=of.depth,
        max_depth=of.max_depth,
        served=of.served,
        running=of.running,
        fallback_reason=_reason(of.fallback_reason),
        fallback_since=timestamp(of.fallback_since) if of.fallback_since is not None else None,
        manual_fallback=of.is_fallback_manual,
        quota_denied_until=timestamp(of.quota_denied_until) if of.quota_denied_until is not None else None,
        predicted_wait=duration(of.predicted_wait_s) if of.predicted_wait_s is not None else None,
    )


def memory(of: MemoryRecord) -> generation_pb2.MemoryRecord:
    """The record as it travels."""
    if of.unmeasured_reason:
        return generation_pb2.MemoryRecord(unmeasured_reason=of.unmeasured_reason)
    return _parsed(of.figures, generation_pb2.MemoryRecord())


def request(of: Task) -> generation_pb2.GenerationRequest:
    """What is rendered, every value set."""
    # Not through the rules: a task stays readable when they have changed since it was stored.
    try:
        return generation_pb2.GenerationRequest(**of.parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        # Names or types that the message does not have any more: slower, and more forgiving.
        return _parsed(of.parameters, generation_pb2.GenerationRequest())


def _parsed(values: Mapping[str, object], message: _M) -> _M:
    return json_format.ParseDict(dict(values), message, ignore_unknown_fields=True)


def _result(of: Result) -> generation_pb2.Result:
    return generation_pb2.Result(**{name: getattr(of, name) for name in Result.__dataclass_fields__})


def _event(of: Event) -> task_pb2.TaskEvent:
    return task_pb2.TaskEvent(
        event_type=of.event_type,
        value=of.value,
        reason=of.reason,
        created_at=timestamp(of.created_at),
        attempt=of.attempt,
        lane_id=of.lane_id or "",
        memory=memory(of.memory) if of.memory is not None else None,
        sequence=of.sequence,
        task_id=of.task_id or "",
        model=of.model or "",
    )


def _model(rules: ModelRules, limits: ModelLimits) -> admission_service_pb2.Model:
    message = admission_service_pb2.Model(
        id=rules.id,
        name=rules.name,
        type=rules.type,
        description=rules.description,
        modes=rules.modes,
        default_mode=rules.default_mode,
        text_to_video_weights=limits.text_to_video_weights,
    )
    message.fixed_parameters.update({name: fixed.value for name, fixed in rules.fixed_parameters.items()})
    message.parameters_schema.update(cast("dict[str, Any]", parameters_schema(rules.id)))
    message.limits.gpus.extend(limits.gpus)
    message.limits.sizes.extend(_size_limit(one) for one in limits.sizes)
    return message


def _size_limit(of: SizeLimit) -> admission_service_pb2.SizeLimit:
    return admission_service_pb2.SizeLimit(
        width=of.width,
        height=of.height,
        max_num_frames=of.max_num_frames,
        placement=of.placement,
        predicted_peak_bytes=of.predicted_peak_bytes,
        predicted_duration=duration(of.predicted_s) if of.predicted_s is not None else None,
    )


def _reason(of: FallbackReason | None) -> task_pb2.FallbackReason.ValueType:
    return _REASONS[of] if of is not None else task_pb2.FALLBACK_REASON_UNSPECIFIED


def _degraded(of: DegradedView) -> operator_service_pb2.DegradedSnapshot:
    return operator_service_pb2.DegradedSnapshot(
        depth=of.depth,
        max_depth=of.max_depth,
        held=of.held,
        rescued=of.rescued,
        oldest_wait=duration(of.oldest_wait_s),
        max_wait=duration(of.max_wait_s),
    )


def _counters(of: CountersView) -> operator_service_pb2.Counters:
    return operator_service_pb2.Counters(
        accepted=of.accepted,
        fallbacks=of.fallbacks,
        overloaded_depth=of.overloaded_depth,
        overloaded_wait=of.overloaded_wait,
        lanes_lost=of.lanes_lost,
    )


def _store(of: StoreView) -> operator_service_pb2.StoreSnapshot:
    return operator_service_pb2.StoreSnapshot(
        slowest_commit=duration(of.slowest_commit_s) if of.slowest_commit_s is not None else None,
        failures=of.failures,
        failing=of.is_failing,
    )


def timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """From aware UTC time."""
    return timestamp_pb2.Timestamp(**_seconds_and_nanos(moment))


def _seconds_and_nanos(moment: datetime) -> dict[str, int]:
    # Exact, and a tenth of the time that the message's own way takes.
    since = moment - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1_000}


def duration(seconds: float) -> duration_pb2.Duration:
    """From seconds."""
    message = duration_pb2.Duration()
    message.FromMicroseconds(round(seconds * 1_000_000))
    return message


def seconds(message: duration_pb2.Duration) -> float:
    """Of a message from outside: whatever its fields hold, this is a number."""
    return message.seconds + message.nanos / 1e9
