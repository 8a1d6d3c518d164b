"""GET and HEAD of /results and /preview: the files of a finished task, streamed from the object store."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response
from warmlane.admission.v1.task_pb2 import Task, TaskState

from http_bridge.auth import CallerDependency, visible_to
from http_bridge.context import Bridge, bridge_of
from http_bridge.errors import HttpError
from http_bridge.file_reply import FileReply, several_parts
from http_bridge.ranges import (
    ByteRange,
    UnsatisfiableRangeError,
    is_another,
    is_unchanged,
    may_serve_range,
    multipart,
    select_ranges,
)
from http_bridge.routes.tasks import TaskIdDependency
from http_bridge.storage import file_size, open_file
from runtime.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

router = APIRouter(tags=["files"])

_LOG = structlog.get_logger()

_EXTENSIONS: Mapping[str, str] = {
    "video/mp4": "mp4",
    "video/webm": "webm",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_VIDEO: dict[str, Any] = {"video/mp4": _BINARY, "video/webm": _BINARY}
_JPEG: dict[str, Any] = {"image/jpeg": _BINARY}
_PARTS: dict[str, Any] = {"multipart/byteranges": _BINARY}
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The client's copy is good."}}
_RESULT_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The video.", "content": _VIDEO},
    206: {"description": "The part of the video that Range asked for, or several.", "content": _VIDEO | _PARTS},
    **_UNCHANGED,
}
_PREVIEW_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The preview.", "content": _JPEG},
    206: {"description": "The part of the preview that Range asked for, or several.", "content": _JPEG | _PARTS},
    **_UNCHANGED,
}

_Download = Annotated[bool, Query(description="true: a browser saves the file instead of showing it.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file of a task.

    Attributes:
        size_bytes: as it was recorded; None where nobody did.
        etag: changes with the content.
        name: for people who save it.
    """

    task_id: str
    key: str
    media_type: str
    size_bytes: int | None
    etag: str
    name: str

    def headers(self, *, download: bool) -> dict[str, str]:
        """Those of every reply about it."""
        return {
            "Accept-Ranges": "bytes",
            # A copy may be kept but not used unasked: the task can be deleted, and the next asker may hold another credential.
            "Cache-Control": "private, no-cache",
            "Content-Disposition": f'{"attachment" if download else "inline"}; filename="{self.name}"',
            "ETag": self.etag,
        }


@router.head("/results/{task_id}", include_in_schema=False)
@router.get("/results/{task_id}", response_class=Response, responses=_RESULT_REPLIES)
async def result(request: Request, caller: CallerDependency, task_id: TaskIdDependency, download: _Download = False) -> Response:
    """The video; byte ranges, ETag and If-Range, so that a video element can seek in it."""
    bridge = bridge_of(request)
    task = await bridge.client.get_task(task_id, only_owner=visible_to(bridge, caller))
    _require_done(task)
    stored = task.result
    file = _File(
        task_id=task_id,
        key=stored.video_key,
        media_type=stored.media_type,
        size_bytes=stored.size_bytes,
        etag=f'"{_content_name(task)}"',
        name=_file_name(task_id, stored.media_type),
    )
    return await _reply(request, bridge, file, download=download)


@router.head("/preview/{task_id}", include_in_schema=False)
@router.get("/preview/{task_id}", response_class=Response, responses=_PREVIEW_REPLIES)
async def preview(request: Request, caller: CallerDependency, task_id: TaskIdDependency, download: _Download = False) -> Response:
    """The JPEG preview; 404 until the task is done."""
    bridge = bridge_of(request)
    task = await bridge.client.get_task(task_id, only_owner=visible_to(bridge, caller))
    if task.state != TaskState.TASK_STATE_DONE or not task.result.preview_key:
        raise HttpError("result_not_found", "The task has no preview.")
    file = _File(
        task_id=task_id,
        key=task.result.preview_key,
        media_type="image/jpeg",
        size_bytes=None,
        # Made in the same attempt as the video, so one changes with the other.
        etag=f'"{_content_name(task)}-preview"',
        name=_file_name(task_id, "image/jpeg"),
    )
    return await _reply(request, bridge, file, download=download)


def _require_done(task: Task) -> None:
    if task.state in (TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_CANCELLED):
        # Not 425: no waiting will bring a file.
        raise HttpError("result_not_found", "The task ended without a result.", metadata={"error_code": task.failure.code or "cancelled"})
    if task.state != TaskState.TASK_STATE_DONE:
        raise HttpError(ErrorCode.TASK_NOT_DONE, "The task is not done yet.")


def _content_name(task: Task) -> str:
    return task.result.sha256 or f"{_safe(task.task_id)}-{task.attempt}-{task.result.size_bytes}"


def _file_name(task_id: str, media_type: str) -> str:
    return f"warmlane-{_safe(task_id)}.{_EXTENSIONS.get(media_type, 'bin')}"


def _safe(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z_-]", "", text)


async def _reply(request: Request, bridge: Bridge, file: _File, *, download: bool) -> Response:
    """What the request's method, conditions and ranges ask for."""
    headers = file.headers(download=download)
    if is_another(_all(request, "if-match"), file.etag):
        raise HttpError("precondition_failed", "The file is not the one that If-Match names.", headers={"ETag": file.etag})
    if is_unchanged(_all(request, "if-none-match"), file.etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        # Ranges are defined for GET alone (RFC 9110, 14.2).
        size_bytes = await file_size(bridge.objects, file.key)
        return Response(headers=headers | {"Content-Length": str(size_bytes), "Content-Type": file.media_type})
    asked = request.headers.get("range")
    if asked is None or not may_serve_range(request.headers.get("if-range"), file.etag):
        return await _whole(bridge, file, headers)
    size_bytes = await file_size(bridge.objects, file.key) if file.size_bytes is None else file.size_bytes
    parts = _parts(asked, size_bytes)
    return await _some(bridge, file, parts, size_bytes, headers) if parts else await _whole(bridge, file, headers)


def _all(request: Request, name: str) -> str | None:
    """A header's values as one list; None without any."""
    return ", ".join(request.headers.getlist(name)) or None


def _parts(asked: str, size_bytes: int) -> Sequence[ByteRange]:
    try:
        return select_ranges(asked, size_bytes)
    except UnsatisfiableRangeError:
        detail = f"The file has {size_bytes} bytes; the range is outside of them."
        headers = {"Content-Range": f"bytes */{size_bytes}", "Accept-Ranges": "bytes"}
        raise HttpError("range_not_satisfiable", detail, metadata={"size_bytes": size_bytes}, headers=headers) from None


async def _whole(bridge: Bridge, file: _File, headers: Mapping[str, str]) -> Response:
    opened = await open_file(bridge.objects, file.key)
    _check_size(file, opened.size_bytes)
    described = {**headers, "Content-Length": str(opened.size_bytes), "Content-Type": file.media_type}
    return FileReply(opened.chunks, status_code=200, headers=described)


async def _some(bridge: Bridge, file: _File, parts: Sequence[ByteRange], size_bytes: int, headers: Mapping[str, str]) -> Response:
    opened = await open_file(bridge.objects, file.key, parts[0])
    _check_size(file, opened.size_bytes)
    if len(parts) == 1:
        described = {"Content-Length": str(parts[0].length), "Content-Range": parts[0].content_range(size_bytes)}
        return FileReply(opened.chunks, status_code=206, headers={**headers, **described, "Content-Type": file.media_type})
    form = multipart(parts, size=size_bytes, media_type=file.media_type, boundary=secrets.token_hex(16))
    described = {"Content-Length": str(form.length), "Content-Type": form.media_type}
    body = several_parts(bridge.objects, file.key, parts, opened, form)
    return FileReply(body, status_code=206, headers={**headers, **described})


def _check_size(file: _File, stored_bytes: int) -> None:
    if file.size_bytes not in (None, stored_bytes):
        _LOG.error("result_size_differs", task_id=file.task_id, recorded_bytes=file.size_bytes, stored_bytes=stored_bytes)
        raise HttpError(ErrorCode.INTERNAL, "The stored file is not the one that was recorded.")
