"""The paths of one task for ids of image tasks: everything is asked of the image upstream."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from http_bridge.auth import CallerDependency
from http_bridge.context import bridge_of
from http_bridge.routes.events import LastEventIdDependency
from http_bridge.schemas import CancelReply, DeletedReply, StatusReply
from http_bridge.upstream.events import ImageEventsReply
from http_bridge.upstream.ids import PREFIX
from http_bridge.upstream.images import ImageUpstream, without_upstream
from http_bridge.upstream.watch import ENDED

# The paths of any id describe these too.
router = APIRouter(include_in_schema=False)

_ID = f"{PREFIX}{{upstream_id}}"


# Coroutines, as every dependency here: FastAPI would call a function in a thread.
async def _task_id(upstream_id: str) -> str:
    return PREFIX + upstream_id


async def _upstream(request: Request, _caller: CallerDependency) -> ImageUpstream:
    images = bridge_of(request).images
    if images is None:
        raise without_upstream()
    return images


_TaskId = Annotated[str, Depends(_task_id)]
# Who may not call at all is told so first.
_Images = Annotated[ImageUpstream, Depends(_upstream)]


@router.get(f"/status/{_ID}")
async def status(images: _Images, caller: CallerDependency, task_id: _TaskId) -> StatusReply:
    """The task as it stands."""
    return await images.status(task_id, caller.owner)


@router.post(f"/cancel/{_ID}")
async def cancel(images: _Images, caller: CallerDependency, task_id: _TaskId) -> CancelReply:
    """Cancels, where the upstream can."""
    return await images.cancel(task_id, caller.owner)


@router.head(f"/results/{_ID}")
@router.get(f"/results/{_ID}", response_class=Response)
async def result(request: Request, images: _Images, caller: CallerDependency, task_id: _TaskId, download: bool = False) -> Response:
    """The image; `download` as for videos."""
    return await images.result(request, task_id, caller.owner, download=download)


@router.head(f"/preview/{_ID}")
@router.get(f"/preview/{_ID}", response_class=Response)
async def preview(request: Request, images: _Images, caller: CallerDependency, task_id: _TaskId, download: bool = False) -> Response:
    """The preview."""
    return await images.preview(request, task_id, caller.owner, download=download)


@router.get(f"/events/{_ID}", response_class=Response)
async def events(
    request: Request, images: _Images, caller: CallerDependency, task_id: _TaskId, last_event: LastEventIdDependency
) -> Response:
    """Every change that polling finds, as server-sent events, until the task has ended."""
    after_sequence, has_seen_end = last_event
    if has_seen_end and (await images.status(task_id, caller.owner)).status in ENDED:
        return Response(status_code=204)
    streams, changes = bridge_of(request).event_streams, images.watch(task_id, caller.owner)
    return ImageEventsReply(streams, changes, task_id=task_id, owner=caller.owner, after_sequence=after_sequence)


@router.delete(f"/gallery/{_ID}")
async def delete(images: _Images, caller: CallerDependency, task_id: _TaskId) -> DeletedReply:
    """Forgets the image."""
    return await images.delete(task_id, caller.owner)
