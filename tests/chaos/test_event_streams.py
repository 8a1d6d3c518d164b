"""kill -9 of admission and of the bridge under open event streams: a client that comes back as a browser does misses nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.harness.event_reader import EventReader
from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE, LightStack

_TASKS = 12
_KILLS = (ADMISSION, HTTP_BRIDGE, ADMISSION, ADMISSION, HTTP_BRIDGE)
_PAUSE_S = 2.0
_START_S = 60.0
# An EventSource waits as long as the stream told it to.
_RETRY_S = 0.5
_BODY = {"model": "anisora", "type": "video", "mode": "t2v", "prompt": "a lake at dawn", "width": 256, "height": 256, "num_frames": 17}


async def _submit(http: httpx.AsyncClient, number: int) -> str:
    headers = {"Idempotency-Key": f"k{number}"}
    return str((await http.post("/generate", json=_BODY, headers=headers)).raise_for_status().json()["task_id"])


async def _follow(http: httpx.AsyncClient, task_id: str) -> tuple[list[str], str]:
    """What was recorded, as the streams of one client told it, and how the task ended."""
    seen: list[str] = []
    last = "0"
    while True:
        try:
            async with http.stream("GET", f"/events/{task_id}", headers={"Last-Event-ID": last}) as reply:
                if reply.status_code == 200:
                    reader = EventReader(reply)
                    while (received := await reader.next()) is not None:
                        last = received.id or last
                        if received.event == "end":
                            return seen, str(received["reason"])
                        if received.event == "status":
                            seen += received.recorded
                else:
                    # A bridge that starts, or one whose admission is away.
                    assert reply.status_code == 503
        except httpx.TransportError:
            pass
        await asyncio.sleep(_RETRY_S)


async def _told(http: httpx.AsyncClient, task_id: str) -> list[str]:
    """What the task's status tells, once the bridge that was killed last is there again."""
    async with asyncio.timeout(_START_S):
        while True:
            with suppress(httpx.TransportError):
                reply = await http.get(f"/status/{task_id}")
                if reply.status_code != 503:
                    return [event["event_type"] for event in reply.raise_for_status().json()["diagnostics"]["events"]]
            await asyncio.sleep(_RETRY_S)


@pytest.mark.long
async def test_every_recorded_event_is_told_once_while_admission_and_bridge_are_killed(tmp_path: Path) -> None:
    with LightStack(tmp_path, processes=(ADMISSION, HTTP_BRIDGE, "lane-anisora")) as stack:
        limits = httpx.Limits(max_connections=100)
        headers = {"X-API-Key": stack.api_key}
        async with httpx.AsyncClient(base_url=stack.http_url, headers=headers, timeout=60, limits=limits) as http:
            task_ids = [await _submit(http, number) for number in range(_TASKS)]
            following = [asyncio.create_task(_follow(http, task_id)) for task_id in task_ids]
            for name in _KILLS:
                await asyncio.sleep(_PAUSE_S)
                await asyncio.to_thread(stack.restart, name)
            async with asyncio.timeout(180):
                ended = await asyncio.gather(*following)
            for task_id, (seen, reason) in zip(task_ids, ended, strict=True):
                assert reason == "done", stack.tails()
                assert seen == (await _told(http, task_id))[: len(seen)]
                assert seen[-1] == "ended"
