"""The merged gallery over random videos and images: every sort, any page size, clocks with and without a zone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from http_bridge.convert import Links
from http_bridge.schemas import GalleryItem
from http_bridge.upstream.client import Call, UpstreamClient
from http_bridge.upstream.convert import gallery_item
from http_bridge.upstream.ids import ImageIds
from http_bridge.upstream.images import SORTS, GalleryQuery, ImageUpstream
from http_bridge.upstream.reply import Reply

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
# How servers write the same moment.
CLOCKS = (
    lambda moment: moment.isoformat(),
    lambda moment: moment.replace(tzinfo=None).isoformat(),
    lambda moment: moment.isoformat().replace("+00:00", "Z"),
    lambda moment: moment.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
)
ROWS = st.tuples(
    st.integers(0, 6), st.integers(0, 2), st.sampled_from((256, 512, 1024)), st.sampled_from((256, 512)), st.sampled_from(CLOCKS)
)


def _item(number: int, row: tuple[int, int, int, int, Any], models: Sequence[str]) -> dict[str, Any]:
    minutes, model, width, height, clock = row
    created_at = clock(START + timedelta(minutes=minutes))
    return {"id": f"u{number}", "model": models[model], "type": "image", "width": width, "height": height, "created_at": created_at}


def _read(item: Mapping[str, Any], prefix: str) -> GalleryItem:
    return gallery_item(item, prefix + item["id"], Links())


class _Client:
    """An upstream that sorts by what it was asked to, and its equals by its own rule."""

    name = "image"
    timeout_s = 30.0

    def __init__(self, items: Sequence[Mapping[str, Any]]) -> None:
        self._items = items

    async def call(self, call: Call) -> Reply:
        query = cast("Mapping[str, Any]", call.query)
        assert query["type"] == "image"
        found = sorted(self._items, key=lambda item: getattr(_read(item, ""), query["sort"]), reverse=True)
        first = (query["page"] - 1) * query["per_page"]
        body = {"items": found[first : first + query["per_page"]], "total": len(found)}
        return Reply(upstream="image", status=200, content=json.dumps(body).encode())


async def _all_pages(videos: Sequence[GalleryItem], images: ImageUpstream, sort: str, per_page: int) -> list[GalleryItem]:
    async def page_of_videos(number: int, size: int) -> tuple[Sequence[GalleryItem], int]:
        return videos[(number - 1) * size : number * size], len(videos)

    found: list[GalleryItem] = []
    page = 1
    while True:
        query = GalleryQuery(page=page, per_page=per_page, sort=sort, model="")
        merged = await images.merged_gallery(page_of_videos, query)
        found += merged.items
        if page * per_page >= merged.total:
            return found
        page += 1


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=15), st.lists(ROWS, max_size=15), st.sampled_from(SORTS), st.integers(1, 9))
def test_every_item_is_on_one_page_in_one_order_when_lists_sorts_and_sizes_are_any(
    video_rows: list[Any], image_rows: list[Any], sort: str, per_page: int
) -> None:
    def key(item: GalleryItem) -> Any:
        return getattr(item, sort)

    videos = [_read(_item(number, row, ("anisora", "phr00t", "anisora")), "") for number, row in enumerate(video_rows)]
    videos.sort(key=key, reverse=True)
    raw = [_item(number, row, ("flux", "pony", "pony")) for number, row in enumerate(image_rows)]
    client = cast("UpstreamClient", _Client(raw))
    found = asyncio.run(_all_pages(videos, ImageUpstream(client, ImageIds(b"", is_private=False), Links()), sort, per_page))
    # Stable, and videos are first: of equals they come before images.
    assert found == sorted([*videos, *sorted((_read(item, "image-") for item in raw), key=key, reverse=True)], key=key, reverse=True)
