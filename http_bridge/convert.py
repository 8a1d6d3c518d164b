"""Messages of admission as the contract's replies; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from warmlane.admission.v1 import access_service_pb2 as access
from warmlane.admission.v1 import admission_service_pb2 as admission
from warmlane.admission.v1.task_pb2 import FallbackReason, LaneMode, Stage, Task, TaskEvent, TaskState

from http_bridge.schemas import (
    DiagnosticEvent,
    Diagnostics,
    GalleryItem,
    ModelLimits,
    SizeLimit,
    StageName,
    StatusReply,
    TaskStatus,
)
from runtime.rules.catalogue import MODELS
from runtime.wire import message_to_raw

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

_STATUSES: Mapping[int, TaskStatus] = MappingProxyType(
    {
        TaskState.TASK_STATE_QUEUED: "pending",
        TaskState.TASK_STATE_LEASED: "processing",
        TaskState.TASK_STATE_DONE: "done",
        TaskState.TASK_STATE_FAILED: "failed",
        TaskState.TASK_STATE_CANCELLED: "failed",
    }
)
_SORTS: Mapping[str, admission.TaskSort.ValueType] = MappingProxyType(
    {
        "created_at": admission.TaskSort.TASK_SORT_CREATED_AT,
        "model": admission.TaskSort.TASK_SORT_MODEL,
        "width": admission.TaskSort.TASK_SORT_WIDTH,
        "height": admission.TaskSort.TASK_SORT_HEIGHT,
    }
)
_SESSION_STATES: Mapping[int, Literal["active", "expired", "invalid"]] = MappingProxyType(
    {access.SessionState.SESSION_STATE_ACTIVE: "active", access.SessionState.SESSION_STATE_EXPIRED: "expired"}
)
# Members of an item of their own; the rest are its parameters.
_ITEM_FIELDS = frozenset({"model", "mode", "prompt", "negative_prompt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Makes the URLs of replies.

    Without a base they are paths from the root, whichever prefix was called: a client puts its own API base in front, as it always did.
    """

    base_url: str = ""

    def result(self, task_id: str) -> str:
        """Where the video is."""
        return f"{self.base_url}/results/{task_id}"

    def preview(self, task_id: str) -> str:
        """Where the preview is."""
        return f"{self.base_url}/preview/{task_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCheck:
    """What a session token is worth; `session_id` and `expires_at` are set when it is active."""

    state: Literal["active", "expired", "invalid"]
    session_id: str
    expires_at: datetime


def session_check(reply: access.CheckSessionResponse) -> SessionCheck:
    """The answer of CheckSession; an unknown state is `invalid`."""
    state = _SESSION_STATES.get(reply.state, "invalid")
    return SessionCheck(state=state, session_id=reply.session_id, expires_at=moment(reply.expires_at))


def task_status(task: Task) -> TaskStatus:
    """The contract's word for the task's state; a cancelled task is failed with the code `cancelled`."""
    return _STATUSES.get(task.state, "pending")


def task_sort(name: str) -> admission.TaskSort.ValueType:
    """What to sort by; an unknown name means the time of creation."""
    return _SORTS.get(name, admission.TaskSort.TASK_SORT_CREATED_AT)


def status_reply(task: Task, links: Links) -> StatusReply:
    """GET /status."""
    is_done = task.state == TaskState.TASK_STATE_DONE
    is_failed = task_status(task) == "failed"
    error = (task.failure.message or "The task failed.") if is_failed else None
    return StatusReply(
        task_id=task.task_id,
        status=task_status(task),
        progress=min(100, max(0, task.progress)),
        stage=cast("StageName", _short(Stage, task.stage, "STAGE_") or "queued"),
        stage_detail=task.stage_detail or None,
        lane_mode=cast("Literal['dedicated', 'degraded_shared'] | None", _short(LaneMode, task.lane_mode, "LANE_MODE_")),
        fallback_reason=cast(
            "Literal['capacity', 'quota', 'manual'] | None", _short(FallbackReason, task.fallback_reason, "FALLBACK_REASON_")
        ),
        diagnostics=diagnostics(task.events),
        result_url=links.result(task.task_id) if is_done else None,
        preview_url=links.preview(task.task_id) if is_done and task.result.preview_key else None,
        error=error,
        error_msg=error,
        error_code=_error_code(task) if is_failed else None,
        created_at=moment(task.created_at),
        updated_at=moment(task.updated_at),
        queue_position=task.queue_position if task.HasField("queue_position") else None,
        eta_seconds=task.eta.ToNanoseconds() / 1e9 if task.HasField("eta") else None,
        attempt=task.attempt,
        text_to_video_weights=_text_to_video_weights(task.events),
    )


def _text_to_video_weights(events: Iterable[TaskEvent]) -> str | None:
    """Of the last attempt that came so far."""
    told = [event.memory.text_to_video_weights for event in events if event.memory.text_to_video_weights]
    return told[-1] if told else None


def _short(enum: Any, number: int, prefix: str) -> str | None:
    # A newer server may send a number without a name here; then the member is as if it were not set.
    name: str = enum.Name(number).removeprefix(prefix).lower() if number in enum.values() else "unspecified"
    return None if name == "unspecified" else name


def _error_code(task: Task) -> str:
    return task.failure.code or ("cancelled" if task.state == TaskState.TASK_STATE_CANCELLED else "render_failed")


def diagnostics(events: Iterable[TaskEvent]) -> Diagnostics | None:
    """What was recorded; None when nothing was."""
    items = [
        DiagnosticEvent(event_type=event.event_type, value=event.value, reason=event.reason, created_at=moment(event.created_at))
        for event in events
    ]
    return Diagnostics(events=items) if items else None


def gallery_item(task: Task, links: Links) -> GalleryItem:
    """One item of GET /gallery. Size and seed are those of the file."""
    raw = message_to_raw(task.request)
    rules = MODELS.get(task.request.model)
    return GalleryItem(
        id=task.task_id,
        model=task.request.model,
        type=rules.type if rules else "video",
        mode=task.request.mode,
        prompt=task.request.prompt,
        negative_prompt=task.request.negative_prompt,
        parameters=_parameters(raw),
        width=task.result.width or task.request.width,
        height=task.result.height or task.request.height,
        seed=task.request.seed,
        created_at=moment(task.created_at),
        preview_url=links.preview(task.task_id) if task.result.preview_key else None,
        result_url=links.result(task.task_id),
    )


def _parameters(raw: Mapping[str, object]) -> dict[str, Any]:
    """The values that were used, without the input images: the gallery is shared, and their keys are nobody's business."""
    parameters = {name: value for name, value in raw.items() if name not in _ITEM_FIELDS and not name.endswith("_image")}
    frames = parameters.get("arbitrary_frames")
    if isinstance(frames, (list, tuple)):
        parameters["arbitrary_frames"] = [{name: value for name, value in frame.items() if name != "image"} for frame in frames]
    return parameters


def model_limits(model: admission.Model) -> ModelLimits | None:
    """What fits; None when admission does not say."""
    if not model.HasField("limits"):
        return None
    sizes = [
        SizeLimit(
            width=size.width,
            height=size.height,
            max_num_frames=size.max_num_frames,
            placement=size.placement,
            predicted_peak_bytes=size.predicted_peak_bytes,
            predicted_seconds=size.predicted_duration.ToNanoseconds() / 1e9 if size.HasField("predicted_duration") else None,
        )
        for size in model.limits.sizes
    ]
    return ModelLimits(gpus=list(model.limits.gpus), sizes=sizes)


def moment(stamp: Timestamp) -> datetime:
    """An aware UTC time."""
    return stamp.ToDatetime(tzinfo=UTC)
