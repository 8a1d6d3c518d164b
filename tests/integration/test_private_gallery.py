"""Who sees which task over HTTP, with the services and the engine of admission behind the bridge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.admission_services import Lane, Stack, admission_stack, ready_lane, render
from tests.harness.bridge import WITH_KEY, bridge_before

Headers = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A bridge, the admission behind it, and two sessions."""

    http: httpx.AsyncClient
    stack: Stack
    lane: Lane
    ann: Headers
    ben: Headers

    async def asked(self, caller: Headers) -> str:
        """A task of the caller's that a lane works on."""
        body = {"model": "anisora", "prompt": "a lake", "width": 256, "height": 256, "num_frames": 9}
        reply = await self.http.post("/generate", json=body, headers=dict(caller))
        assert reply.status_code == 202, reply.text
        return str(reply.json()["task_id"])

    async def rendered(self, caller: Headers) -> str:
        """A finished task of the caller's."""
        task_id = await self.asked(caller)
        lease = (await self.lane.wish(lambda desired: desired.lease.task_id == task_id)).lease
        await render(self.stack, self.lane, lease, b"video of " + task_id.encode())
        await self.lane.wish(lambda desired: desired.acknowledged.task_id == task_id)
        await self.lane.report()
        return task_id

    async def seen(self, caller: Headers, **query: str | int) -> tuple[list[str], int]:
        """The ids that the caller's gallery shows, and its total."""
        reply = await self.http.get("/gallery", params=query, headers=dict(caller))
        assert reply.status_code == 200, reply.text
        page: dict[str, Any] = reply.json()
        return [item["id"] for item in page["items"]], page["total"]

    async def statuses(self, caller: Headers, task_id: str) -> dict[str, int]:
        """What the caller gets for every path that only looks at a task."""
        paths = (f"/status/{task_id}", f"/results/{task_id}", f"/preview/{task_id}")
        return {path.split("/")[1]: (await self.http.get(path, headers=dict(caller))).status_code for path in paths}


@asynccontextmanager
async def gallery(folder: Path, **settings: Any) -> AsyncIterator[Gallery]:
    """With these settings of the bridge."""
    async with admission_stack(folder) as stack, bridge_before(f"127.0.0.1:{stack.port}", stack.objects, **settings) as http:
        sessions = []
        for _ in range(2):
            opened = await http.post("/auth/session")
            assert opened.status_code == 201, opened.text
            # From the header: by the test's clock the cookie has expired already, so the client would not keep it.
            sessions.append({"Cookie": opened.headers["set-cookie"].partition(";")[0]})
        yield Gallery(http=http, stack=stack, lane=await ready_lane(stack), ann=sessions[0], ben=sessions[1])


@pytest.fixture
async def private(tmp_path: Path) -> AsyncIterator[Gallery]:
    """A private one."""
    async with gallery(tmp_path, gallery_private=True) as made:
        yield made


async def test_everyone_sees_their_own_and_the_key_sees_all_when_the_gallery_is_private(private: Gallery) -> None:
    anns, bens = await private.rendered(private.ann), await private.rendered(private.ben)
    keys = await private.rendered(WITH_KEY)

    assert await private.seen(private.ann) == ([anns], 1)
    assert await private.seen(private.ben) == ([bens], 1)
    ids, total = await private.seen(WITH_KEY)
    assert (sorted(ids), total) == (sorted([anns, bens, keys]), 3)
    for sort in ("created_at", "model", "width", "height"):
        assert await private.seen(private.ann, sort=sort, model="anisora") == ([anns], 1)
    assert await private.seen(private.ann, page=2) == ([], 1)
    assert set((await private.statuses(private.ann, anns)).values()) == {200}
    assert set((await private.statuses(WITH_KEY, anns)).values()) == {200}


async def test_anothers_task_answers_as_one_that_never_was_when_the_gallery_is_private(private: Gallery) -> None:
    anns, keys = await private.rendered(private.ann), await private.rendered(WITH_KEY)
    running = await private.asked(private.ann)
    unknown = "0" * 32
    calls = [
        ("GET", "/status"),
        ("GET", "/results"),
        ("HEAD", "/results"),
        ("GET", "/preview"),
        ("POST", "/cancel"),
        ("DELETE", "/gallery"),
    ]

    for method, path in calls:
        for prefix in ("", "/api"):
            never = await private.http.request(method, f"{prefix}{path}/{unknown}", headers=dict(private.ben))
            for task_id in (anns, running, keys):
                other = await private.http.request(method, f"{prefix}{path}/{task_id}", headers=dict(private.ben))
                assert (other.status_code, other.content) == (404, never.content)

    assert set((await private.statuses(private.ann, anns)).values()) == {200}
    status = (await private.http.get(f"/status/{running}", headers=dict(private.ann))).json()
    assert status["status"] in ("pending", "processing")


async def test_ones_own_is_cancelled_and_deleted_when_the_gallery_is_private(private: Gallery) -> None:
    done = await private.rendered(private.ann)
    running = await private.asked(private.ann)

    cancelled = await private.http.post(f"/cancel/{running}", headers=dict(private.ann))
    deleted = await private.http.delete(f"/gallery/{done}", headers=dict(private.ann))

    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "failed")
    assert (deleted.status_code, await private.seen(private.ann)) == (200, ([], 0))
    assert set((await private.statuses(private.ann, done)).values()) == {404}


async def test_the_key_may_delete_anyones_when_the_gallery_is_private(private: Gallery) -> None:
    anns = await private.rendered(private.ann)

    assert (await private.http.delete(f"/gallery/{anns}", headers=WITH_KEY)).status_code == 200
    assert await private.seen(private.ann) == ([], 0)


async def test_a_key_of_the_client_is_its_own_when_another_session_uses_the_same(private: Gallery) -> None:
    body = {"model": "anisora", "prompt": "a lake", "width": 256, "height": 256, "num_frames": 9}
    ids = [
        (await private.http.post("/generate", json=body, headers={**caller, "Idempotency-Key": "one"})).json()["task_id"]
        for caller in (private.ann, private.ann, private.ben)
    ]
    assert ids[0] == ids[1] != ids[2]


async def test_everyone_sees_and_may_delete_all_when_the_gallery_is_shared(tmp_path: Path) -> None:
    async with gallery(tmp_path) as shared:
        anns, keys = await shared.rendered(shared.ann), await shared.rendered(WITH_KEY)

        ids, total = await shared.seen(shared.ben)
        assert (sorted(ids), total) == (sorted([anns, keys]), 2)
        assert set((await shared.statuses(shared.ben, anns)).values()) == {200}
        assert (await shared.http.delete(f"/gallery/{anns}", headers=dict(shared.ben))).status_code == 200
