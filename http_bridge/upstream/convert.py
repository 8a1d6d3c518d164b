"""Replies of the image upstream as ours: the contract's fields with our ids and URLs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from http_bridge.schemas import (
    DiagnosticEvent,
    Diagnostics,
    FixedParameter,
    GalleryItem,
    ModelItem,
    StageName,
    StatusReply,
    TaskStatus,
)
from http_bridge.upstream.ids import is_upstream_id

if TYPE_CHECKING:
    from http_bridge.convert import Links

_T = TypeVar("_T")

_STATUSES: frozenset[str] = frozenset(get_args(TaskStatus))
_STAGES: frozenset[str] = frozenset(get_args(StageName))
_LANE_MODES = frozenset({"dedicated", "degraded_shared"})
_FALLBACKS = frozenset({"capacity", "quota", "manual"})
# Of a server whose stages have other names.
_STAGE_OF_STATUS: Mapping[str, StageName] = MappingProxyType(
    {"pending": "queued", "processing": "inference", "done": "completed", "failed": "failed"}
)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_EVENTS = 200


def task_status(body: Mapping[str, object]) -> TaskStatus | None:
    """The status in a reply; None when it is none of the contract's."""
    status = body.get("status")
    return cast("TaskStatus", status) if isinstance(status, str) and status in _STATUSES else None


def status_reply(body: Mapping[str, object], task_id: str, links: Links) -> StatusReply | None:
    """GET /status of the task that a client knows by this id; None when the body says neither its status nor when it began."""
    status, created_at = task_status(body), moment(body.get("created_at"))
    if status is None or created_at is None:
        return None
    error = (_text(body, "error") or _text(body, "error_msg") or "The task failed.") if status == "failed" else None
    return StatusReply(
        task_id=task_id,
        status=status,
        progress=max(0, min(100, _whole(body, "progress"))),
        stage=cast("StageName", _one_of(body, "stage", _STAGES) or _STAGE_OF_STATUS[status]),
        stage_detail=_text(body, "stage_detail") or None,
        lane_mode=cast("Any", _one_of(body, "lane_mode", _LANE_MODES)),
        fallback_reason=cast("Any", _one_of(body, "fallback_reason", _FALLBACKS)),
        diagnostics=_diagnostics(body.get("diagnostics")),
        result_url=links.result(task_id) if status == "done" else None,
        preview_url=links.preview(task_id) if status == "done" and body.get("preview_url") else None,
        error=error,
        error_msg=error,
        error_code=(_text(body, "error_code") or "render_failed") if status == "failed" else None,
        created_at=created_at,
        updated_at=moment(body.get("updated_at")) or created_at,
        queue_position=_number_or_none(body, "queue_position", int),
        eta_seconds=_number_or_none(body, "eta_seconds", float),
        attempt=max(0, _whole(body, "attempt")),
        text_to_video_weights=None,
    )


def gallery_item(found: object, public_id: str, links: Links) -> GalleryItem:
    """One item of GET /gallery. What is missing has its empty value: one odd item must not take the page with it."""
    item = _object(found)
    has_preview = bool(item.get("preview_url"))
    return GalleryItem(
        id=public_id,
        model=_text(item, "model"),
        type=_text(item, "type") or "image",
        mode=_text(item, "mode"),
        prompt=_text(item, "prompt"),
        negative_prompt=_text(item, "negative_prompt"),
        parameters=_parameters(item.get("parameters")),
        width=_whole(item, "width"),
        height=_whole(item, "height"),
        seed=_whole(item, "seed", otherwise=-1),
        created_at=moment(item.get("created_at")) or _BEGINNING,
        preview_url=links.preview(public_id) if has_preview else None,
        result_url=links.result(public_id),
    )


def item_id(found: object) -> str | None:
    """The upstream's id of a gallery item; None when it has none that can be asked for."""
    found_id = _object(found).get("id")
    return found_id if isinstance(found_id, str) and is_upstream_id(found_id) else None


def model_item(found: object) -> ModelItem | None:
    """One model of GET /models; None when it has no id."""
    item = _object(found)
    model_id = _text(item, "id")
    if not model_id:
        return None
    modes = item.get("modes")
    names = [mode for mode in modes if isinstance(mode, str)] if isinstance(modes, list) else []
    schema = item.get("parameters_schema")
    return ModelItem(
        id=model_id,
        name=_text(item, "name") or model_id,
        type=_text(item, "type"),
        category=_text(item, "category"),
        description=_text(item, "description"),
        modes=names,
        default_mode=_text(item, "default_mode") or (names[0] if names else ""),
        fixed_parameters=_fixed_parameters(item.get("fixed_parameters")),
        parameters_schema=schema if isinstance(schema, dict) else {},
        limits=None,
        text_to_video_weights=[],
    )


def moment(text: object) -> datetime | None:
    """An aware UTC time of ISO text. One without a zone is UTC: servers that keep such times mean it so."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _diagnostics(found: object) -> Diagnostics | None:
    events = _object(found).get("events")
    if not isinstance(events, list):
        return None
    told = [event for entry in events[:_MOST_EVENTS] if (event := _event(_object(entry))) is not None]
    return Diagnostics(events=told) if told else None


def _event(entry: Mapping[str, object]) -> DiagnosticEvent | None:
    created_at = moment(entry.get("created_at"))
    if created_at is None:
        return None
    return DiagnosticEvent(
        event_type=_text(entry, "event_type"), value=_text(entry, "value"), reason=_text(entry, "reason"), created_at=created_at
    )


def _parameters(found: object) -> dict[str, Any]:
    """Without pictures that a server keeps among them: the gallery is shared, and they may be large."""
    return {name: value for name, value in _object(found).items() if not name.endswith("_image") and name != "arbitrary_frames"}


def _fixed_parameters(found: object) -> dict[str, FixedParameter]:
    fixed = {}
    for name, entry in _object(found).items():
        value, locked = _object(entry).get("value"), _object(entry).get("locked")
        if isinstance(value, int | float) and not isinstance(value, bool):
            fixed[name] = FixedParameter(value=value, locked=locked is not False)
    return fixed


def _object(found: object) -> Mapping[str, object]:
    return found if isinstance(found, dict) else {}


def _text(body: Mapping[str, object], name: str) -> str:
    found = body.get(name)
    return found if isinstance(found, str) else ""


def _one_of(body: Mapping[str, object], name: str, names: frozenset[str]) -> str | None:
    found = _text(body, name)
    return found if found in names else None


def _whole(body: Mapping[str, object], name: str, *, otherwise: int = 0) -> int:
    found = _number_or_none(body, name, int)
    return otherwise if found is None else found


def _number_or_none(body: Mapping[str, object], name: str, kind: type[_T]) -> _T | None:
    found = body.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        return kind(found)  # type: ignore[call-arg]
    except OverflowError:
        return None
