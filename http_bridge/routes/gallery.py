"""The gallery: finished tasks, newest first, and their deletion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request

from http_bridge.auth import CallerDependency, visible_to
from http_bridge.context import bridge_of
from http_bridge.convert import gallery_item, task_sort
from http_bridge.routes.tasks import TaskIdDependency
from http_bridge.schemas import DeletedReply, GalleryItem, GalleryReply
from http_bridge.upstream.images import SORTS, GalleryQuery
from runtime.rules.catalogue import MODELS

router = APIRouter(prefix="/gallery", tags=["gallery"])

# Pages travel as 32-bit numbers.
_LAST_PAGE = 2**31 - 1


@router.get("")
async def gallery(
    request: Request,
    caller: CallerDependency,
    page: Annotated[int, Query(ge=1, le=_LAST_PAGE)] = 1,
    per_page: Annotated[int, Query(ge=1, le=100)] = 20,
    sort: Annotated[str, Query(description="created_at, model, width or height; anything else means created_at.")] = "created_at",
    model: Annotated[str, Query(description="Only this model; empty means all.")] = "",
    type: Annotated[str, Query(description="Only this type; empty means all.")] = "",  # noqa: A002 - the contract's name
) -> GalleryReply:
    """One page of the finished tasks; images of their own server among the videos, in one order.

    In a private gallery they are the caller's own, unless it holds the API key.
    """
    bridge = bridge_of(request)

    async def videos(number: int, size: int) -> tuple[Sequence[GalleryItem], int]:
        tasks, total = await bridge.client.list_done_tasks(
            page=number, page_size=size, sort=task_sort(sort), model=model, only_owner=visible_to(bridge, caller)
        )
        return [gallery_item(task, bridge.links) for task in tasks], total

    has_videos = _may_exist(model, type)
    images = bridge.images if _may_be_image(model, type) else None
    items: Sequence[GalleryItem] = ()
    total = 0
    if images is not None and images.may_list(caller.owner):
        query = GalleryQuery(page=page, per_page=per_page, sort=sort if sort in SORTS else SORTS[0], model=model)
        merged = await (images.merged_gallery(videos, query) if has_videos else images.gallery(query))
        items, total = merged.items, merged.total
    elif has_videos:
        items, total = await videos(page, per_page)
    return GalleryReply(items=list(items), total=total, page=page, per_page=per_page, has_more=page * per_page < total)


def _may_exist(model: str, kind: str) -> bool:
    """Whether tasks of this model and type can exist at all; admission cannot filter by type, and every model here makes videos."""
    if not kind:
        return not model or model in MODELS
    return any(rules.type == kind for rules in MODELS.values() if model in ("", rules.id))


def _may_be_image(model: str, kind: str) -> bool:
    """Whether the image upstream may have tasks of this model and type."""
    return kind in ("", "image") and model not in MODELS


@router.delete("/{task_id}")
async def delete(request: Request, caller: CallerDependency, task_id: TaskIdDependency) -> DeletedReply:
    """Forgets the task and removes its files; cancels it first if it runs."""
    bridge = bridge_of(request)
    await bridge.client.delete_task(task_id, only_owner=visible_to(bridge, caller))
    return DeletedReply(deleted=True, id=task_id)
