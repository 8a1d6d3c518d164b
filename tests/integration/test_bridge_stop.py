"""A bridge that is told to stop ends the replies that run: downloads by finishing them, streams and held requests at once."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import httpx
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb

from tests.harness.admission_services import Stack, admission_stack, degraded_depth_is, ready_lane, render, submission, until
from tests.harness.event_reader import PATIENCE_S, ServedBridge, bridge_on
from tests.harness.http import NO_AUTHORITIES

# More than sockets and buffers hold: a reader that pauses keeps the reply from its end.
CONTENT = hashlib.sha256(b"a clip").digest() * 512 * 1024


async def _finished(stack: Stack) -> str:
    """A finished task with a large file."""
    lane = await ready_lane(stack)
    task = (await stack.clients.SubmitTask(submission(), timeout=PATIENCE_S)).task
    lease = (await lane.wish(lambda wish: wish.HasField("lease"))).lease
    await render(stack, lane, lease, CONTENT)
    watching = stack.clients.WatchTask(pb.WatchTaskRequest(task_id=task.task_id), timeout=PATIENCE_S)
    async for _ in watching:
        pass
    return task.task_id


async def _is_refused(bridge: ServedBridge) -> None:
    """Nobody new is let in."""

    async def refused() -> bool:
        try:
            async with httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=bridge.http.base_url, timeout=1) as http:
                await http.get("/health")
        except httpx.TransportError:
            return True
        return False

    await until(refused)


async def test_replies_that_run_are_ended_when_the_bridge_stops(tmp_path: Path) -> None:
    async with admission_stack(tmp_path) as stack, bridge_on(stack.port, tmp_path) as bridge:
        task_id = await _finished(stack)
        waiting = (await stack.clients.SubmitTask(submission(), timeout=PATIENCE_S)).task
        # No lane of this model: it is held for a place in the pool.
        body = {"model": "phr00t", "type": "video", "mode": "t2v", "prompt": "a lake"}
        held = asyncio.create_task(bridge.http.post("/generate", json=body))
        await until(lambda: degraded_depth_is(stack, 1))
        async with bridge.events(waiting.task_id) as events, bridge.http.stream("GET", f"/results/{task_id}") as download:
            await events.state()
            chunks = download.aiter_bytes(64 * 1024)
            received = await anext(chunks)
            bridge.stop()
            await _is_refused(bridge)

            # Those that wait are told at once, while the download still runs.
            assert [one.event for one in await events.rest()] in ([], ["status"])
            reply = await held
            assert (reply.status_code, reply.json()["detail"]["code"]) == (503, "service_unavailable")
            await until(lambda: degraded_depth_is(stack, 0))
            assert not bridge.serving.done()

            async for chunk in chunks:
                received += chunk
        assert received == CONTENT
        async with asyncio.timeout(PATIENCE_S):
            await bridge.serving
        # The request that was held left nothing behind.
        assert (await stack.clients.ListTasks(pb.ListTasksRequest(), timeout=PATIENCE_S)).total == 2


async def test_download_that_stands_still_is_cut_off_when_the_bridge_stops(tmp_path: Path) -> None:
    async with admission_stack(tmp_path) as stack, bridge_on(stack.port, tmp_path) as bridge:
        task_id = await _finished(stack)
        bridge.server.config.timeout_graceful_shutdown = 1
        async with bridge.http.stream("GET", f"/results/{task_id}") as download:
            chunks = download.aiter_bytes(64 * 1024)
            await anext(chunks)
            bridge.stop()
            async with asyncio.timeout(PATIENCE_S):
                await bridge.serving
            with pytest.raises(httpx.TransportError):
                async for _ in chunks:
                    pass
