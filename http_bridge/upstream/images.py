"""The server of the image models, as the routes use it: every call in the contract's words, with our ids and URLs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from http_bridge.bodies import LargeBodies
from http_bridge.errors import HttpError
from http_bridge.schemas import AcceptedReply, CancelReply, DeletedReply, GalleryItem, StatusReply
from http_bridge.upstream import convert
from http_bridge.upstream.client import Call, UpstreamClient
from http_bridge.upstream.errors import away, not_understood
from http_bridge.upstream.files import pass_on
from http_bridge.upstream.ids import PREFIX, ImageIds, is_upstream_id, not_found
from http_bridge.upstream.merge import Merged, ReadPage, merged_page
from http_bridge.upstream.models import ImageModelList
from http_bridge.upstream.watch import watch

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from http_bridge.convert import Links
    from http_bridge.upstream.merge import Comparable

SORTS = ("created_at", "model", "width", "height")
"""What the gallery can be sorted by; the first is meant by any other name."""

_LARGE_BODIES = 4
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryQuery:
    """One page of the gallery. `sort` is one of the contract's; `model` empty: all."""

    page: int
    per_page: int
    sort: str
    model: str


class ImageUpstream:
    """Calls the image upstream for callers that are named by their owner.

    Methods raise `HttpError` (what the upstream refused, or `service_unavailable`) and `ServiceError` `task_not_found`.

    Attributes:
        models: its image models.
        large_bodies: places for large bodies on their way to it, apart from those of videos; who finds none is refused at once.
    """

    def __init__(self, client: UpstreamClient, ids: ImageIds, links: Links) -> None:
        """Over a client that `start` starts."""
        self._client = client
        self._ids = ids
        self._links = links
        self.models = ImageModelList(client)
        self.large_bodies = LargeBodies(_LARGE_BODIES, wait_s=0.0)

    async def start(self) -> None:
        """Makes the connections' pool."""
        await self._client.start()

    async def close(self) -> None:
        """Ends every connection."""
        await self._client.close()

    async def generate(self, content: bytes | bytearray, owner: str, key: str) -> AcceptedReply:
        """Asks for an image with a body that was checked; `key` is the client's Idempotency-Key, empty when it sent none."""
        headers = {**_JSON, "Idempotency-Key": self._ids.request_key(key, owner)} if key else _JSON
        reply = await self._client.call(Call(name="generate", method="POST", path="/generate", headers=headers, content=content))
        task_id = reply.body().get("task_id")
        if not isinstance(task_id, str) or not is_upstream_id(task_id):
            raise not_understood(self._client.name, "an accepted task without an id that can be asked for")
        return AcceptedReply(task_id=self._ids.public(task_id, owner), status="pending")

    async def status(self, task_id: str, owner: str) -> StatusReply:
        """GET /status."""
        body = await self._status(self._ids.upstream(task_id, owner))
        told = convert.status_reply(body, task_id, self._links)
        if told is None:
            raise not_understood(self._client.name, "a status without what the contract says of it")
        return told

    async def cancel(self, task_id: str, owner: str) -> CancelReply:
        """POST /cancel. A server that has no such path is told apart from one that has no such task."""
        upstream_id = self._ids.upstream(task_id, owner)
        reply = await self._client.call(Call(name="cancel", method="POST", path=f"/cancel/{upstream_id}"))
        if reply.status in (404, 405, 501):
            await self._status(upstream_id)
            detail = "The image server cannot cancel; the image will be made."
            raise HttpError("not_supported", detail, user_action="Wait for the image, then delete it.")
        status = convert.task_status(reply.body(of_task=True))
        if status is None:
            raise not_understood(self._client.name, "a cancelled task without a status")
        return CancelReply(task_id=task_id, status=status)

    async def delete(self, task_id: str, owner: str) -> DeletedReply:
        """DELETE /gallery/{task_id}."""
        upstream_id = self._ids.upstream(task_id, owner)
        reply = await self._client.call(Call(name="delete", method="DELETE", path=f"/gallery/{upstream_id}"))
        reply.check(of_task=True)
        return DeletedReply(deleted=True, id=task_id)

    async def result(self, request: Request, task_id: str, owner: str, *, download: bool = False) -> Response:
        """GET and HEAD of /results: the file as it comes. `download` has a browser save it."""
        upstream_id = self._ids.upstream(task_id, owner)
        name = PREFIX + upstream_id
        return await pass_on(self._client, request, f"/results/{upstream_id}", call="result", file_name=name, download=download)

    async def preview(self, request: Request, task_id: str, owner: str, *, download: bool = False) -> Response:
        """GET and HEAD of /preview."""
        upstream_id = self._ids.upstream(task_id, owner)
        name = f"{PREFIX}{upstream_id}-preview"
        return await pass_on(self._client, request, f"/preview/{upstream_id}", call="preview", file_name=name, download=download)

    def watch(self, task_id: str, owner: str) -> AsyncGenerator[StatusReply, None]:
        """The status now, then its changes; see `watch.watch`."""
        return watch(partial(self.status, task_id, owner))

    def may_list(self, owner: str) -> bool:
        """Whether this caller sees images in the gallery."""
        return self._ids.may_list(owner)

    async def gallery(self, query: GalleryQuery) -> Merged[GalleryItem]:
        """One page of the images alone."""
        items, total = await self._gallery_page(query, query.page, query.per_page)
        return Merged(items=_addressable(items), total=total)

    async def merged_gallery(self, videos: ReadPage[GalleryItem], query: GalleryQuery) -> Merged[GalleryItem]:
        """One page of videos and images together."""

        async def images(page: int, size: int) -> tuple[Sequence[GalleryItem], int]:
            return await self._gallery_page(query, page, size)

        def key(item: GalleryItem) -> Comparable:
            found: Comparable = getattr(item, query.sort)
            return found

        try:
            async with asyncio.timeout(self._client.timeout_s):
                merged = await merged_page(videos, images, key, page=query.page, per_page=query.per_page)
        except TimeoutError:
            raise away(self._client.name) from None
        return Merged(items=_addressable(merged.items), total=merged.total)

    async def _gallery_page(self, query: GalleryQuery, page: int, size: int) -> tuple[list[GalleryItem], int]:
        asked: dict[str, str | int] = {"page": page, "per_page": size, "sort": query.sort, "type": "image"}
        if query.model:
            asked["model"] = query.model
        body = (await self._client.call(Call(name="gallery", method="GET", path="/gallery", query=asked))).body()
        found, total = body.get("items"), body.get("total")
        if not isinstance(found, list) or not isinstance(total, int) or not 0 <= total <= 2**53:
            raise not_understood(self._client.name, "a gallery without items and total")
        # An item without an id keeps its place, so that the others keep theirs; it is left out at the end.
        return [convert.gallery_item(item, PREFIX + (convert.item_id(item) or ""), self._links) for item in found[:size]], total

    async def _status(self, upstream_id: str) -> Mapping[str, object]:
        return (await self._client.call(Call(name="status", method="GET", path=f"/status/{upstream_id}"))).body(of_task=True)


def without_upstream() -> HttpError:
    """What an image task is where no upstream is set: nothing that this server knows."""
    missing = not_found()
    return HttpError(missing.code, missing.message)


def _addressable(items: Sequence[GalleryItem]) -> list[GalleryItem]:
    return [item for item in items if item.id != PREFIX]
