"""GET /events over HTTP, on the real services of admission."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as dispatch

from admission.store.memory import MemoryStore
from http_bridge.event_feed import Pace
from tests.harness.admission_services import Stack, accepted_task, admission_stack, ready_lane, render, submission, until
from tests.harness.event_reader import PATIENCE_S, EventReader, ServedBridge, bridge_on
from tests.harness.http import NO_AUTHORITIES

UNKNOWN = "0" * 32


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with admission_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def bridge(stack: Stack, tmp_path: Path) -> AsyncIterator[ServedBridge]:
    async with bridge_on(stack.port, tmp_path) as bridge:
        yield bridge


def _work(lease: dispatch.Lease, progress: int, detail: str = "") -> dispatch.Work:
    return dispatch.Work(
        task_id=lease.task_id, attempt=lease.attempt, phase=dispatch.WORK_PHASE_INFERENCE, progress=progress, detail=detail
    )


async def _watched(stack: Stack) -> int:
    """How many watches admission has open."""
    return sum(len(watchers) for watchers in stack.engine._watching._watchers.values())


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_every_change_is_told_in_order_until_the_task_is_done(stack: Stack, bridge: ServedBridge, prefix: str) -> None:
    lane = await ready_lane(stack)
    task = await accepted_task(stack)
    async with bridge.events(task.task_id, prefix=prefix) as reader:
        first = await reader.state()
        lease = (await lane.wish(lambda wish: wish.HasField("lease"))).lease
        for progress in (10, 60):
            await lane.report(_work(lease, progress, f"step {progress}"))
            at = await reader.until(progress=progress)
            assert (at["status"], at["stage"], at["stage_detail"]) == ("processing", "inference", f"step {progress}")
        await render(stack, lane, lease, b"video")
        *states, end = await reader.rest()
    assert first["task_id"] == task.task_id
    assert (first.retry, "accepted" in first.recorded) == ("3000", True)
    done = states[-1]
    assert (done["status"], done["progress"], done["result_url"]) == ("done", 100, f"/results/{task.task_id}")
    assert done.recorded[-1] == "ended"
    assert (end.event, end.data) == ("end", {"task_id": task.task_id, "reason": "done"})
    assert end.id == f"{done.id}-end"
    assert {**(await bridge.http.get(f"/status/{task.task_id}")).json(), "diagnostics": None} == {**(done.data or {}), "diagnostics": None}


async def test_proxies_are_told_to_pass_events_on_at_once(stack: Stack, bridge: ServedBridge) -> None:
    await ready_lane(stack)
    async with bridge.events((await accepted_task(stack)).task_id) as reader:
        headers = reader.reply.headers
    assert headers["Content-Type"].startswith("text/event-stream")
    assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
    assert "Content-Length" not in headers


async def test_place_in_the_queue_is_told_when_it_changes(stack: Stack, bridge: ServedBridge) -> None:
    lane = await ready_lane(stack)
    tasks = [await accepted_task(stack) for _ in range(3)]
    await lane.wish(lambda wish: wish.HasField("lease"))
    async with bridge.events(tasks[2].task_id) as reader:
        assert (await reader.state())["queue_position"] == 1
        await stack.clients.CancelTask(pb.CancelTaskRequest(task_id=tasks[1].task_id), timeout=5)
        assert (await reader.state())["queue_position"] == 0


async def test_nothing_is_missed_or_repeated_when_the_client_comes_back(stack: Stack, bridge: ServedBridge) -> None:
    lane = await ready_lane(stack)
    task = await accepted_task(stack)
    lease = (await lane.wish(lambda wish: wish.HasField("lease"))).lease
    seen: list[str] = []
    async with bridge.events(task.task_id) as reader:
        while "attempt_started" not in seen:
            received = await reader.state()
            seen += received.recorded
    await render(stack, lane, lease, b"video")
    async with bridge.events(task.task_id, received.id) as reader:
        *states, end = await reader.rest()
    for state in states:
        seen += state.recorded
    assert seen == ["accepted", "attempt_started", "memory_record", "attempt_ended", "ended"]
    assert states[-1]["status"] == "done"

    # It has seen the end: an EventSource takes 204 as the order to stay away.
    again = await bridge.http.get(f"/events/{task.task_id}", headers={"Last-Event-ID": end.id})
    assert (again.status_code, again.content) == (204, b"")


async def test_weights_that_rendered_are_told_when_the_client_comes_back_behind_their_event(stack: Stack, bridge: ServedBridge) -> None:
    lane = await ready_lane(stack)
    task = await accepted_task(stack)
    lease = (await lane.wish(lambda wish: wish.HasField("lease"))).lease
    record = generation_pb2.MemoryRecord(device="cpu", host_rss_after_bytes=1, text_to_video_weights="text_to_video_pair")
    await render(stack, lane, lease, b"video", record)
    async with bridge.events(task.task_id) as reader:
        *states, _ = await reader.rest()
    async with bridge.events(task.task_id, states[-1].id) as reader:
        (again, end) = await reader.rest()
    assert (again["text_to_video_weights"], again["diagnostics"], again.id) == ("text_to_video_pair", None, states[-1].id)
    assert end.event == "end"


async def test_stream_ends_at_once_when_the_task_is_cancelled_in_its_render(stack: Stack, bridge: ServedBridge) -> None:
    lane = await ready_lane(stack)
    task = await accepted_task(stack)
    await lane.wish(lambda wish: wish.HasField("lease"))
    async with bridge.events(task.task_id) as reader:
        await reader.state()
        assert (await bridge.http.post(f"/cancel/{task.task_id}")).status_code == 200
        *states, end = await reader.rest()
    assert (states[-1]["status"], states[-1]["error_code"], end["reason"]) == ("failed", "cancelled", "failed")


async def test_stream_ends_when_the_task_is_deleted(stack: Stack, bridge: ServedBridge) -> None:
    await ready_lane(stack)
    tasks = [await accepted_task(stack) for _ in range(2)]
    async with bridge.events(tasks[1].task_id) as reader:
        await reader.state()
        assert (await bridge.http.delete(f"/gallery/{tasks[1].task_id}")).status_code == 200
        end = (await reader.rest())[-1]
    # It is cancelled first; whether that is seen before it is gone is a matter of milliseconds.
    assert end["reason"] in ("failed", "deleted")
    again = await bridge.http.get(f"/events/{tasks[1].task_id}", headers={"Last-Event-ID": end.id})
    assert again.status_code == 404


@pytest.mark.parametrize("task_id", [UNKNOWN, "no-id!"])
async def test_unknown_task_gets_the_envelope_before_any_event(bridge: ServedBridge, task_id: str) -> None:
    reply = await bridge.http.get(f"/events/{task_id}")
    assert (reply.status_code, reply.json()["detail"]["code"]) == (404, "task_not_found")


@pytest.mark.parametrize("sent", ["x", "-1", "1.5", "1-END", "9" * 19, "\u0661"])
async def test_id_that_was_never_sent_is_refused_by_name(bridge: ServedBridge, sent: str) -> None:
    reply = await bridge.http.get(f"/events/{UNKNOWN}", headers={b"Last-Event-ID": sent.encode()})
    detail = reply.json()["detail"]
    assert (reply.status_code, [field["field"] for field in detail["metadata"]["fields"]]) == (422, ["Last-Event-ID"])


async def test_nobody_reads_events_without_a_credential(bridge: ServedBridge) -> None:
    async with httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=bridge.http.base_url) as stranger:
        assert (await stranger.get(f"/events/{UNKNOWN}")).status_code == 401
        assert (await stranger.get(f"/api/events/{UNKNOWN}", headers={"X-API-Key": "wrong"})).status_code == 403


async def test_session_reads_events_up_to_its_limit(stack: Stack, tmp_path: Path) -> None:
    await ready_lane(stack)
    task = await accepted_task(stack)
    async with (
        bridge_on(stack.port, tmp_path, max_event_streams=3, max_event_streams_per_session=1, cookie_secure=False) as bridge,
        httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=bridge.http.base_url) as browser,
    ):
        opened = await browser.post("/auth/session")
        # By hand: admission's clock stands in the past, and the client would throw its cookie away.
        browser.headers["Cookie"] = opened.headers["Set-Cookie"].partition(";")[0]
        async with browser.stream("GET", f"/api/events/{task.task_id}") as open_reply:
            reader = EventReader(open_reply)
            assert (await reader.state())["status"] in ("pending", "processing")
            second = await browser.get(f"/events/{task.task_id}")
            async with bridge.events(task.task_id) as one, bridge.events(task.task_id) as two:
                await one.state()
                await two.state()
                full = await bridge.http.get(f"/events/{task.task_id}")
        await until(lambda: _none_open(bridge))
        async with browser.stream("GET", f"/events/{task.task_id}") as again:
            assert again.status_code == 200
    assert (second.status_code, second.json()["detail"]["code"], "Retry-After" in second.headers) == (429, "rate_limited", True)
    assert (full.status_code, full.json()["detail"]["code"], "Retry-After" in full.headers) == (503, "service_unavailable", True)


async def _none_open(bridge: ServedBridge) -> bool:
    return len(bridge.app.state.bridge.event_streams) == 0


async def test_watch_of_admission_is_closed_at_once_when_the_client_leaves(stack: Stack, bridge: ServedBridge) -> None:
    await ready_lane(stack)
    tasks = [await accepted_task(stack) for _ in range(2)]
    async with bridge.events(tasks[1].task_id) as reader:
        await reader.state()
        assert await _watched(stack) == 1
    await until(lambda: _is_unwatched(stack))
    assert len(bridge.app.state.bridge.event_streams) == 0


async def _is_unwatched(stack: Stack) -> bool:
    return await _watched(stack) == 0


async def test_stream_goes_on_when_admission_recycles_its_watch(tmp_path: Path) -> None:
    async with admission_stack(tmp_path, stream_life_s=0.05) as stack, bridge_on(stack.port, tmp_path) as bridge:
        lane = await ready_lane(stack)
        task = await accepted_task(stack)
        lease = (await lane.wish(lambda wish: wish.HasField("lease"))).lease
        seen: list[str] = []
        async with bridge.events(task.task_id) as reader:
            seen += (await reader.state()).recorded
            await asyncio.sleep(0.2)
            await lane.report(_work(lease, 40))
            seen += (await reader.until(progress=40)).recorded
            await render(stack, lane, lease, b"video")
            *states, end = await reader.rest()
        for state in states:
            seen += state.recorded
    assert end["reason"] == "done"
    assert len(seen) == len(set(seen)) == 5


async def test_stream_goes_on_when_admission_is_restarted(tmp_path: Path) -> None:
    store = MemoryStore()
    async with AsyncExitStack() as lives:
        first = await lives.enter_async_context(admission_stack(tmp_path, store=store))
        await ready_lane(first)
        task = await accepted_task(first)
        async with bridge_on(first.port, tmp_path) as bridge, bridge.events(task.task_id) as reader:
            seen = (await reader.state()).recorded
            await lives.aclose()
            second = await lives.enter_async_context(admission_stack(tmp_path, store=store, port=first.port))
            await second.clients.CancelTask(pb.CancelTaskRequest(task_id=task.task_id), timeout=5, wait_for_ready=True)
            *states, end = await reader.rest()
    for state in states:
        seen += state.recorded
    assert (seen[0], seen[-1], len(set(seen))) == ("accepted", "ended", len(seen))
    assert {state["status"] for state in states[:-1]} <= {"pending", "processing"}
    assert (states[-1]["error_code"], end["reason"]) == ("cancelled", "failed")


async def test_streams_end_when_the_bridge_stops(stack: Stack, tmp_path: Path) -> None:
    await ready_lane(stack)
    task = await accepted_task(stack)
    async with bridge_on(stack.port, tmp_path) as bridge, bridge.events(task.task_id) as reader:
        await reader.state()
        bridge.app.state.bridge.stopping.set()
        # No event `end`: an EventSource connects again, to whoever serves then.
        assert [received.event for received in await reader.rest()] in ([], ["status"])


async def test_heartbeats_fill_the_silence(stack: Stack, bridge: ServedBridge) -> None:
    await ready_lane(stack)
    tasks = [await accepted_task(stack) for _ in range(2)]
    bridge.app.state.bridge.event_streams.pace = Pace(heartbeat_s=0.01)
    async with bridge.events(tasks[1].task_id) as reader:
        await reader.state()
        while (received := await reader.next()) is not None and not received.comment:
            pass
    assert received is not None
    assert received.comment == "still there"


async def test_submission_of_another_owner_is_told_too_in_a_shared_gallery(stack: Stack, bridge: ServedBridge) -> None:
    await ready_lane(stack)
    task = (await stack.clients.SubmitTask(submission("session:other"), timeout=PATIENCE_S)).task
    async with bridge.events(task.task_id) as reader:
        assert (await reader.state())["task_id"] == task.task_id
