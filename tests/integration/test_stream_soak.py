"""Many streams that end in every way leave nothing behind: neither memory nor sockets nor asyncio tasks."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio
import psutil
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from runtime.rpc import create_channel
from tests.harness.admission_services import Lane, Stack, accepted_task, admission_stack, ready_lane

_AT_ONCE = 20
# Long enough for a stream to begin, short enough for many to grow old.
_STREAM_LIFE_S = 0.05
_MIB = 1024 * 1024


async def _watched(stream: grpc.aio.UnaryStreamCall[Any, Any], *, hangs_up: bool) -> None:
    """Reads to the stream's end, which is its age, or hangs up after the first answer."""
    try:
        async for _ in stream:
            if hangs_up:
                stream.cancel()
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        # Reading a call that was cancelled here raises CancelledError too.
        assert await stream.code() is (grpc.StatusCode.CANCELLED if hangs_up else grpc.StatusCode.ABORTED)
    else:
        pytest.fail("the stream ended before its time")


async def _attached_lane(port: int, number: int, *, is_cut: bool) -> None:
    """A lane on a connection of its own, that says good-bye or whose connection is cut."""
    async with create_channel(f"127.0.0.1:{port}") as channel:
        lane = Lane(DispatchServiceStub(channel).Attach(timeout=30), lane_id=f"soak-{number}", boot_id=uuid4().hex)
        await lane.report()
        await lane.wish(lambda _: True)
        if not is_cut:
            await lane.call.done_writing()
            await lane.call.code()


def _task_stream(stack: Stack, task_id: str) -> grpc.aio.UnaryStreamCall[Any, Any]:
    return stack.clients.WatchTask(pb.WatchTaskRequest(task_id=task_id), timeout=30)


def _event_stream(stack: Stack) -> grpc.aio.UnaryStreamCall[Any, Any]:
    return stack.operators.WatchEvents(operator_service_pb2.WatchEventsRequest(), timeout=30)


async def _rounds(stack: Stack, task_id: str, rounds: int) -> None:
    for _ in range(rounds):
        await asyncio.gather(
            *(_watched(_task_stream(stack, task_id), hangs_up=number % 2 == 0) for number in range(_AT_ONCE)),
            *(_watched(_event_stream(stack), hangs_up=number % 2 == 0) for number in range(_AT_ONCE)),
            *(_attached_lane(stack.port, number, is_cut=number % 2 == 0) for number in range(_AT_ONCE // 2)),
        )


def _footprint() -> tuple[int, int]:
    """Resident bytes and open sockets of this process, which is client and server in one."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss, len(process.net_connections())


async def _soak(folder: Path, rounds: int, growth_bytes: int) -> None:
    async with admission_stack(folder, stream_life_s=_STREAM_LIFE_S) as stack:
        own = await ready_lane(stack)
        task_id = (await accepted_task(stack)).task_id
        # What is made once (pools, caches, code) is made now.
        await _rounds(stack, task_id, max(3, rounds // 10))
        tasks, (rss, sockets) = len(asyncio.all_tasks()), _footprint()

        await _rounds(stack, task_id, rounds)

        async with asyncio.timeout(10):
            # The server learns of the last cut connections a moment later.
            while len(asyncio.all_tasks()) > tasks or _footprint()[1] > sockets:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        grown = _footprint()[0] - rss
        assert grown < growth_bytes, f"{grown / _MIB:.1f} MiB more after {rounds} rounds"
        own.call.cancel()


async def test_nothing_is_left_behind_when_hundreds_of_streams_ended(tmp_path: Path) -> None:
    # 8 rounds of 50 streams. One leaked stream would keep some 30 KiB: 400 of them, 12 MiB.
    await _soak(tmp_path, 8, 12 * _MIB)


@pytest.mark.long
async def test_nothing_is_left_behind_when_thousands_of_streams_ended(tmp_path: Path) -> None:
    # 200 rounds of 50 streams: 2 KiB each at most.
    await _soak(tmp_path, 200, 20 * _MIB)
