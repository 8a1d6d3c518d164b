"""Two bridges of one admission behave as one, and one that is restarted has lost nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.harness.admission_services import Lane, Stack, admission_stack, ready_lane, render
from tests.harness.event_reader import ServedBridge, bridge_on
from tests.harness.http import NO_AUTHORITIES

ADMIN_KEY = "admin-key-0123456"
BODY = {"model": "anisora", "type": "video", "mode": "t2v", "prompt": "a lake at dawn"}
LIMITS = {"admin_key": ADMIN_KEY, "new_sessions_per_minute": 4, "generations_per_minute": 3, "bad_keys_per_minute": 2}


class Pair(NamedTuple):
    """Two bridges, and what stands behind both."""

    one: ServedBridge
    other: ServedBridge
    stack: Stack
    lane: Lane


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with admission_stack(tmp_path) as stack:
        lane = await ready_lane(stack)
        async with bridge_on(stack.port, tmp_path, **LIMITS) as one, bridge_on(stack.port, tmp_path, **LIMITS) as other:
            yield Pair(one, other, stack, lane)


def _stranger(bridge: ServedBridge, **headers: str) -> httpx.AsyncClient:
    """Someone without the key. Cookies are sent by hand: admission's clock stands in the past, where they have long run out."""
    return httpx.AsyncClient(
        verify=NO_AUTHORITIES, base_url=bridge.http.base_url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


async def _session(bridge: ServedBridge) -> str:
    async with _stranger(bridge) as http:
        opened = await http.post("/auth/session")
        assert opened.status_code == 201, opened.text
        return str(opened.headers["Set-Cookie"]).partition(";")[0]


def _code(reply: httpx.Response) -> str:
    return str(reply.json()["detail"]["code"])


async def _rendered(pair: Pair, content: bytes = b"0123456789") -> str:
    """A finished task that was asked for at the first bridge."""
    task_id = (await pair.one.http.post("/generate", json=BODY)).json()["task_id"]
    lease = (await pair.lane.wish(lambda wish: wish.HasField("lease") and wish.lease.task_id == task_id)).lease
    async with pair.other.events(task_id) as reader:
        await render(pair.stack, pair.lane, lease, content)
        assert (await reader.rest())[-1]["reason"] == "done"
    return str(task_id)


async def test_session_of_one_bridge_is_good_at_the_other(pair: Pair) -> None:
    cookie = await _session(pair.one)
    async with _stranger(pair.other, Cookie=cookie) as http:
        assert (await http.get("/auth/session")).status_code == 200
        task_id = (await http.post("/generate", json=BODY)).json()["task_id"]
    async with _stranger(pair.one, Cookie=cookie) as http:
        assert (await http.get(f"/status/{task_id}")).json()["task_id"] == task_id


async def test_request_is_one_task_when_both_bridges_get_it_with_the_same_key(pair: Pair) -> None:
    headers = {"Idempotency-Key": "k1"}
    ids = {(await bridge.http.post("/generate", json=BODY, headers=headers)).json()["task_id"] for bridge in (pair.one, pair.other)}
    assert len(ids) == 1
    refused = await pair.other.http.post("/generate", json={**BODY, "seed": 3}, headers=headers)
    assert (refused.status_code, _code(refused)) == (422, "validation_error")


async def test_both_bridges_say_the_same_of_a_finished_task(pair: Pair) -> None:
    task_id = await _rendered(pair)
    for path in (f"/status/{task_id}", f"/results/{task_id}", f"/preview/{task_id}", "/gallery", "/models"):
        one, other = [await bridge.http.get(path) for bridge in (pair.one, pair.other)]
        assert (one.status_code, one.content, one.headers.get("ETag")) == (200, other.content, other.headers.get("ETag")), path
    part = await pair.other.http.get(f"/results/{task_id}", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")


async def test_events_go_on_at_the_other_bridge_where_they_stopped_at_the_first(pair: Pair) -> None:
    task_id = (await pair.one.http.post("/generate", json=BODY)).json()["task_id"]
    lease = (await pair.lane.wish(lambda wish: wish.HasField("lease"))).lease
    seen: list[str] = []
    async with pair.one.events(task_id) as reader:
        while "attempt_started" not in seen:
            received = await reader.state()
            seen += received.recorded
    async with pair.other.events(task_id, received.id) as reader:
        await render(pair.stack, pair.lane, lease, b"video")
        *states, end = await reader.rest()
    for state in states:
        seen += state.recorded
    assert (seen, end["reason"]) == (["accepted", "attempt_started", "memory_record", "attempt_ended", "ended"], "done")


async def test_stream_of_one_bridge_ends_when_the_task_is_cancelled_at_the_other(pair: Pair) -> None:
    task_id = (await pair.one.http.post("/generate", json=BODY)).json()["task_id"]
    async with pair.one.events(task_id) as reader:
        await reader.state()
        cancelled = (await pair.other.http.post(f"/cancel/{task_id}")).json()
        *states, _ = await reader.rest()
    assert (states[-1]["error_code"], cancelled["status"]) == ("cancelled", "failed")


async def test_deleted_task_is_gone_at_both_bridges(pair: Pair) -> None:
    task_id = await _rendered(pair)
    assert (await pair.other.http.delete(f"/gallery/{task_id}")).status_code == 200
    for path in (f"/status/{task_id}", f"/results/{task_id}", f"/events/{task_id}"):
        assert (await pair.one.http.get(path)).status_code == 404, path
    assert (await pair.one.http.get("/gallery")).json()["total"] == 0


async def test_limit_of_new_sessions_holds_for_both_bridges_together(pair: Pair) -> None:
    for bridge in (pair.one, pair.other, pair.one, pair.other):
        await _session(bridge)
    for bridge in (pair.one, pair.other):
        async with _stranger(bridge) as http:
            refused = await http.post("/auth/session")
        assert (refused.status_code, _code(refused)) == (429, "rate_limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
    pair.stack.clock.advance(60)
    await _session(pair.other)


async def test_limit_of_generations_holds_for_both_bridges_together(pair: Pair) -> None:
    cookie = await _session(pair.one)
    codes = []
    for bridge in (pair.one, pair.other, pair.one, pair.other):
        async with _stranger(bridge, Cookie=cookie) as http:
            codes.append((await http.post("/generate", json=BODY)).status_code)
    assert codes == [202, 202, 202, 429]


async def test_wrong_keys_are_counted_by_both_bridges_together(pair: Pair) -> None:
    codes = []
    for bridge in (pair.one, pair.other, pair.one, pair.other):
        async with _stranger(bridge, X_API_Key="wrong") as http:
            codes.append((await http.get("/models")).status_code)
    assert codes == [403, 403, 429, 429]
    # The right one is let in all the same.
    assert (await pair.other.http.get("/models")).status_code == 200


async def test_admin_session_that_one_bridge_ended_is_refused_by_the_other(pair: Pair) -> None:
    async with _stranger(pair.one, X_Admin_Key=ADMIN_KEY) as http:
        cookie = (await http.post("/admin/session")).headers["Set-Cookie"].partition(";")[0]
    async with _stranger(pair.other, Cookie=cookie) as other:
        assert (await other.get("/admin/session")).status_code == 200
        async with _stranger(pair.one, Cookie=cookie) as one:
            assert (await one.delete("/admin/session")).status_code == 204
        refused = await other.get("/admin/session")
    assert (refused.status_code, _code(refused)) == (401, "admin_session_invalid")
    async with _stranger(pair.other, X_Admin_Key=ADMIN_KEY) as http:
        actions = [entry["action"] for entry in (await http.get("/admin/logs")).json()["logs"]]
    assert actions[-4:] == ["admin_session_get", "admin_session_delete", "admin_session_get", "admin_session_create"]


async def test_nothing_is_lost_when_the_bridge_is_restarted(tmp_path: Path) -> None:
    async with admission_stack(tmp_path) as stack:
        lane = await ready_lane(stack)
        headers = {"Idempotency-Key": "k1"}
        async with bridge_on(stack.port, tmp_path, **LIMITS) as first:
            cookie = await _session(first)
            task_id = (await first.http.post("/generate", json=BODY, headers=headers)).json()["task_id"]
            async with first.events(task_id) as reader:
                seen = (await reader.state()).id
            async with _stranger(first, X_Admin_Key=ADMIN_KEY) as http:
                admin = (await http.post("/admin/session")).headers["Set-Cookie"].partition(";")[0]
            async with _stranger(first, X_API_Key="wrong") as http:
                for _ in range(2):
                    await http.get("/models")
        async with bridge_on(stack.port, tmp_path, **LIMITS) as second:
            assert (await second.http.post("/generate", json=BODY, headers=headers)).json()["task_id"] == task_id
            lease = (await lane.wish(lambda wish: wish.HasField("lease"))).lease
            async with second.events(task_id, seen) as reader:
                await render(stack, lane, lease, b"video")
                assert (await reader.rest())[-1]["reason"] == "done"
            async with _stranger(second, Cookie=cookie) as http:
                assert (await http.get(f"/results/{task_id}")).content == b"video"
            async with _stranger(second, Cookie=admin) as http:
                assert (await http.get("/admin/session")).status_code == 200
            async with _stranger(second, X_API_Key="wrong") as http:
                assert (await http.get("/models")).status_code == 429
