"""GET and HEAD of /results and /preview: the files of a finished task, streamed from the object store."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from warmlane.admission.v1.task_pb2 import Task, TaskState

from http_bridge.auth import CallerDependency, visible_to
from http_bridge.context import Bridge, bridge_of
from http_bridge.errors import HttpError
from http_bridge.ranges import ByteRange, UnsatisfiableRangeError, is_unchanged, may_serve_range, select_range
from http_bridge.routes.tasks import TaskIdDependency
from http_bridge.storage import file_size, open_file
from runtime.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

router = APIRouter(tags=["files"])

_LOG = structlog.get_logger()

_EXTENSIONS: Mapping[str, str] = {"video/mp4": "mp4", "video/webm": "webm", "image/jpeg": "jpg"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_VIDEO: dict[str, Any] = {"video/mp4": _BINARY, "video/webm": _BINARY}
_RESULT_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The video.", "content": _VIDEO},
    206: {"description": "The part of the video that Range asked for.", "content": _VIDEO},
    304: {"description": "The client's copy is good."},
}
_PREVIEW_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The preview.", "content": {"image/jpeg": _BINARY}},
    304: {"description": "The client's copy is good."},
}


@router.head("/results/{task_id}", include_in_schema=False)
@router.get("/results/{task_id}", response_class=Response, responses=_RESULT_REPLIES)
async def result(request: Request, caller: CallerDependency, task_id: TaskIdDependency) -> Response:
    """The video; byte ranges, ETag and If-Range, so that a video element can seek in it."""
    bridge = bridge_of(request)
    task = await bridge.client.get_task(task_id, only_owner=visible_to(bridge, caller))
    _require_done(task)
    etag = f'"{task.result.sha256}"'
    headers = _headers(task, task.result.media_type, etag) | {"Accept-Ranges": "bytes"}
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        # Ranges are defined for GET alone (RFC 9110, 14.2).
        size_bytes = await file_size(bridge.objects, task.result.video_key)
        return Response(headers=headers | {"Content-Length": str(size_bytes)}, media_type=task.result.media_type)
    part = _part(request, etag, task.result.size_bytes)
    return await _video(bridge, task, part, headers)


@router.head("/preview/{task_id}", include_in_schema=False)
@router.get("/preview/{task_id}", response_class=Response, responses=_PREVIEW_REPLIES)
async def preview(request: Request, caller: CallerDependency, task_id: TaskIdDependency) -> Response:
    """The JPEG preview; 404 until the task is done."""
    bridge = bridge_of(request)
    task = await bridge.client.get_task(task_id, only_owner=visible_to(bridge, caller))
    if task.state != TaskState.TASK_STATE_DONE or not task.result.preview_key:
        raise HttpError("result_not_found", "The task has no preview.")
    # Made in the same attempt as the video, so one changes with the other.
    etag = f'"{task.result.sha256}-preview"'
    headers = _headers(task, "image/jpeg", etag)
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        size_bytes = await file_size(bridge.objects, task.result.preview_key)
        return Response(headers=headers | {"Content-Length": str(size_bytes)}, media_type="image/jpeg")
    file = await open_file(bridge.objects, task.result.preview_key)
    return StreamingResponse(file.chunks, headers=headers | {"Content-Length": str(file.size_bytes)}, media_type="image/jpeg")


def _require_done(task: Task) -> None:
    if task.state in (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_CANCELLED):
        # Not 425: no waiting will bring a file.
        raise HttpError("result_not_found", "The task ended without a result.", metadata={"error_code": task.failure.code or "cancelled"})
    if task.state != TaskState.TASK_STATE_DONE:
        raise HttpError(ErrorCode.TASK_NOT_DONE, "The task is not done yet.")


def _headers(task: Task, media_type: str, etag: str) -> dict[str, str]:
    safe_id = re.sub(r"[^0-9A-Za-z_-]", "", task.task_id)
    name = f"warmlane-{safe_id}.{_EXTENSIONS.get(media_type, 'bin')}"
    # A copy may be kept but not used unasked: the task can be deleted, and the next asker may hold another credential.
    return {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Disposition": f'inline; filename="{name}"'}


def _part(request: Request, etag: str, size_bytes: int) -> ByteRange | None:
    if not may_serve_range(request.headers.get("if-range"), etag):
        return None
    try:
        return select_range(request.headers.get("range"), size_bytes)
    except UnsatisfiableRangeError:
        detail = f"The file has {size_bytes} bytes; the range is outside of them."
        headers = {"Content-Range": f"bytes */{size_bytes}", "Accept-Ranges": "bytes"}
        raise HttpError("range_not_satisfiable", detail, metadata={"size_bytes": size_bytes}, headers=headers) from None


async def _video(bridge: Bridge, task: Task, part: ByteRange | None, headers: dict[str, str]) -> Response:
    size_bytes = task.result.size_bytes
    file = await open_file(bridge.objects, task.result.video_key, part)
    if file.size_bytes != size_bytes:
        _LOG.error("result_size_differs", task_id=task.task_id, recorded_bytes=size_bytes, stored_bytes=file.size_bytes)
        raise HttpError(ErrorCode.INTERNAL, "The stored file is not the one that was recorded.")
    if part is None:
        whole = headers | {"Content-Length": str(size_bytes)}
        return StreamingResponse(file.chunks, headers=whole, media_type=task.result.media_type)
    ranged = headers | {"Content-Length": str(part.length), "Content-Range": f"bytes {part.start}-{part.end - 1}/{size_bytes}"}
    return StreamingResponse(file.chunks, status_code=206, headers=ranged, media_type=task.result.media_type)
