"""Admission starts again with very many stored tasks: it serves at once, and reads stay quick."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import task_pb2

from benchmarks.store_scale import build
from tests.harness.callers import GrpcCaller, percentile
from tests.harness.light_stack import ADMISSION, LightStack
from tests.harness.many_tasks import store_unfinished

_UNFINISHED = 10_000
_FINISHED = 1_000_000
_STARTS = 3
_PAGE = 20


def _serves_after_s(stack: LightStack) -> float:
    """Seconds from the start of the process to its first answer and a health of SERVING."""
    while True:
        try:
            stack.snapshot()
            with grpc.insecure_channel(stack.grpc_address) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                status = health.Check(health_pb2.HealthCheckRequest(), timeout=1).status
        except grpc.RpcError:
            time.sleep(0.002)
            continue
        if status == health_pb2.HealthCheckResponse.SERVING:
            return time.monotonic() - stack.started_s(ADMISSION)


def _restarts(stack: LightStack) -> list[float]:
    """How long each of several starts takes after a kill -9."""
    taken = []
    for _ in range(_STARTS):
        stack.restart(ADMISSION)
        taken.append(_serves_after_s(stack))
    return taken


def _figures(taken: list[float]) -> str:
    return ", ".join(f"{seconds:.2f}" for seconds in taken)


@pytest.mark.long
async def test_admission_serves_within_seconds_when_10000_tasks_are_unfinished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = LightStack(tmp_path, processes=(ADMISSION,))
    await store_unfinished(stack.database, _UNFINISHED)
    try:
        await asyncio.to_thread(stack.__enter__)
        taken = await asyncio.to_thread(_restarts, stack)
        queues = stack.snapshot().queues
    finally:
        await asyncio.to_thread(stack.stop)
    with capsys.disabled():
        print(f"\nadmission with {_UNFINISHED} unfinished tasks serves after {_figures(taken)} s")  # noqa: T201
    assert sum(queue.depth for queue in queues) == _UNFINISHED
    # The design's bound is 2 s on an idle machine; the long form holds it to that.
    assert min(taken) < 5.0


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_admission_serves_within_2_s_when_a_million_tasks_are_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Nothing is removed meanwhile: the made-up failures are old.
    stack = LightStack(tmp_path, processes=(ADMISSION,), environment={"WARMLANE_KEEP_FAILED_DAYS": "0"})
    await build(stack.database, ended=_FINISHED, unfinished=0)
    await store_unfinished(stack.database, _UNFINISHED)
    try:
        await asyncio.to_thread(stack.__enter__)
        taken = await asyncio.to_thread(_restarts, stack)
        reads = await _reads(stack)
    finally:
        await asyncio.to_thread(stack.stop)
    with capsys.disabled():
        print(f"\nadmission with a million finished tasks serves after {_figures(taken)} s; p50, p99 in ms:")  # noqa: T201
        for name, times in reads.items():
            print(f"  {name}: {percentile(times, 0.5) * 1000:.2f}, {percentile(times, 0.99) * 1000:.2f}")  # noqa: T201
    assert statistics.median(taken) < 2.0
    assert percentile(reads["GetTask"], 0.99) < 0.005
    assert all(percentile(times, 0.5) < 0.020 for name, times in reads.items() if name.startswith("ListTasks"))


async def _reads(stack: LightStack) -> dict[str, list[float]]:
    """Times of reads over gRPC, one after another."""
    rng = random.Random(1)  # noqa: S311
    with closing(sqlite3.connect(f"file:{stack.database}?mode=ro", uri=True)) as connection:
        ids = [row[0] for row in connection.execute("SELECT task_id FROM tasks WHERE abs(random()) % 2000 = 0 LIMIT 400")]
    times: dict[str, list[float]] = {}
    async with GrpcCaller(stack) as caller:
        await caller.until_serving()
        for task_id in ids:
            await _timed(times, "GetTask", lambda task_id=task_id: caller.task(task_id))  # type: ignore[misc]
        done = [task_pb2.TASK_STATE_DONE]
        for sort in pb.TaskSort.values():
            for model in ("", "anisora"):
                for _ in range(20):
                    page = rng.randrange(1, 50)
                    wanted = pb.ListTasksRequest(page=page, page_size=_PAGE, sort=sort, model=model, states=done)
                    name = f"ListTasks {pb.TaskSort.Name(sort)} {model}".rstrip()
                    await _timed(times, name, lambda wanted=wanted: caller.admission.ListTasks(wanted, timeout=30))  # type: ignore[misc]
        last = pb.ListTasksRequest(page=_FINISHED // _PAGE, page_size=_PAGE, states=done)
        await _timed(times, "ListTasks, last page", lambda: caller.admission.ListTasks(last, timeout=30))
    return times


async def _timed(times: dict[str, list[float]], name: str, call: Callable[[], Awaitable[object]]) -> None:
    began_s = time.monotonic()
    await call()
    times.setdefault(name, []).append(time.monotonic() - began_s)
