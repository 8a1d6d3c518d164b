"""The gallery and the models of both sides through the bridge, and whose image tasks are whose in a private gallery."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from warmlane.admission.v1.task_pb2 import TaskState

from tests.harness.admission_double import make_task
from tests.harness.bridge import WITH_KEY, BridgeUnderTest, running_bridge
from tests.harness.upstream import IMAGE_BODY, ONE_TASK, UpstreamDouble, image_settings, upstream_double


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[UpstreamDouble]:
    async with upstream_double(tmp_path / "upstream") as double:
        yield double


@pytest.fixture
async def bridge(tmp_path: Path, upstream: UpstreamDouble) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects", **image_settings(upstream)) as bridge:
        yield bridge


async def test_models_of_the_upstream_stand_behind_ours_when_it_answers(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    replies = await asyncio.gather(*(bridge.http.get("/models", headers=WITH_KEY) for _ in range(5)))
    for reply in replies:
        models = reply.json()["models"]
        assert [one["id"] for one in models] == ["anisora", "phr00t", "pony"]
        assert (models[2]["name"], models[2]["type"], models[2]["default_mode"]) == ("Pony", "image", "txt2img")
        assert set(models[2]) == set(models[0])
    assert len(upstream.came("GET", "/models")) == 1


def _add_both(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> list[str]:
    """Videos and images in turn; the ids, newest first. The upstream's clock has no zone, one has another."""
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    ids = []
    for number in range(7):
        video_id = f"{number:032x}"
        task = make_task(video_id, state=TaskState.TASK_STATE_DONE)
        task.created_at.FromDatetime(start + timedelta(minutes=2 * number))
        bridge.admission.tasks[video_id] = task
        made = (start + timedelta(minutes=2 * number + 1)).replace(tzinfo=None)
        upstream.add_image(f"u{number}", created_at=made.isoformat())
        ids += [video_id, f"image-u{number}"]
    return ids[::-1]


async def test_gallery_pages_through_both_in_one_order_when_an_upstream_is_set(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    ids = _add_both(bridge, upstream)
    session = bridge.add_session()
    for path, per_page in (("/gallery", 1), ("/gallery", 3), ("/api/gallery", 5), ("/gallery", 20)):
        found = []
        for page in range(1, 15 // per_page + 2):
            reply = (await bridge.http.get(f"{path}?page={page}&per_page={per_page}", headers=session)).json()
            assert (reply["total"], reply["page"], reply["has_more"]) == (14, page, page * per_page < 14)
            found += [item["id"] for item in reply["items"]]
        assert found == ids
    assert all("type=image" in one.query for one in upstream.came("GET", "/gallery"))


async def test_gallery_items_of_images_have_our_fields_when_they_are_listed(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.add_image("a1")
    bridge.add_done_task()
    items = (await bridge.http.get("/gallery", headers=WITH_KEY)).json()["items"]
    image = next(item for item in items if item["id"] == "image-a1")
    assert set(image) == set(next(item for item in items if item is not image))
    assert (image["result_url"], image["preview_url"]) == ("/results/image-a1", "/preview/image-a1")
    # A picture that the upstream keeps among the parameters stays there.
    assert image["parameters"] == {"sampler": "euler"}


FILTERS = [
    ("type=video", True, False, 7),
    ("model=anisora", True, False, 7),
    ("type=image", False, True, 7),
    ("model=pony", False, True, 7),
    ("model=flux&type=image", False, True, 0),
    ("model=pony&type=video", False, False, 0),
    ("model=anisora&type=image", False, False, 0),
    ("type=song", False, False, 0),
]


async def test_gallery_asks_one_side_only_when_the_filter_says_which(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    _add_both(bridge, upstream)
    for query, asks_admission, asks_upstream, total in FILTERS:
        bridge.admission.listed.clear()
        upstream.requests.clear()
        reply = await bridge.http.get(f"/gallery?{query}&per_page=3", headers=WITH_KEY)
        assert (reply.status_code, reply.json()["total"], len(reply.json()["items"])) == (200, total, min(3, total))
        assert (bool(bridge.admission.listed), bool(upstream.requests)) == (asks_admission, asks_upstream)


async def test_page_keeps_its_other_items_when_one_of_the_upstream_has_no_id(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    ids = _add_both(bridge, upstream)
    upstream.images["u6"].update(id="../../etc", width="wide", parameters=None)
    reply = (await bridge.http.get("/gallery?per_page=4", headers=WITH_KEY)).json()
    assert [item["id"] for item in reply["items"]] == ids[1:4]


async def test_task_is_its_sessions_alone_when_the_gallery_is_private(tmp_path: Path, upstream: UpstreamDouble) -> None:
    async with running_bridge(tmp_path / "objects", **image_settings(upstream, gallery_private=True)) as bridge:
        mine, other = bridge.add_session(session_id="s1"), bridge.add_session(session_id="s2")
        task_id = (await bridge.http.post("/generate", headers=mine, json=IMAGE_BODY)).json()["task_id"]
        upstream.images["up-0000"]["status"] = "done"
        seen = await bridge.http.get(f"/status/{task_id}", headers=mine)
        assert (seen.status_code, seen.json()["task_id"], seen.json()["result_url"]) == (200, task_id, f"/results/{task_id}")
        assert (await bridge.http.get(f"/results/{task_id}", headers=mine)).status_code == 200
        assert (await bridge.http.get(f"/status/{task_id}", headers=WITH_KEY)).status_code == 200
        upstream.requests.clear()
        for sent in (task_id, "image-up-0000", task_id[:-1] + ("A" if task_id[-1] != "A" else "B")):
            for method, path in ONE_TASK:
                assert (await bridge.http.request(method, path + sent, headers=other)).status_code == 404, (path, sent)
        assert (await bridge.http.get("/status/image-up-0000", headers=mine)).status_code == 404
        assert (await bridge.http.get("/gallery", headers=mine)).json()["items"] == []
        assert upstream.requests == []
        assert [item["id"] for item in (await bridge.http.get("/gallery", headers=WITH_KEY)).json()["items"]] == ["image-up-0000"]
        assert (await bridge.http.delete(f"/gallery/{task_id}", headers=mine)).json() == {"deleted": True, "id": task_id}
