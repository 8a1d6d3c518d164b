"""Another process holds SQLite's write lock for a while: nothing is accepted that is not on disk, and it goes on by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from warmlane.admission.v1 import task_pb2

from tests.harness.callers import ACCEPTED, Answer, GrpcCaller
from tests.harness.light_stack import ADMISSION, LightStack

_LANE = "lane-anisora"
# A write waits 5 s for the lock, and an acceptance may first stand behind another write that began to wait when the lock was taken.
_LOCKED_S = 13.0


@pytest.mark.long
async def test_nothing_is_accepted_before_it_is_stored_when_the_database_is_locked(tmp_path: Path) -> None:
    stack = LightStack(tmp_path, processes=(ADMISSION, _LANE))
    try:
        await asyncio.to_thread(stack.__enter__)
        async with GrpcCaller(stack) as caller:
            await _locked(stack, caller)
    finally:
        await asyncio.to_thread(stack.stop)


async def _locked(stack: LightStack, caller: GrpcCaller) -> None:
    admission = stack.pid(ADMISSION)
    in_work = (await caller.ask("waits")).task_id
    await caller.until(in_work, lambda task: task.stage == task_pb2.STAGE_INFERENCE)
    locking = asyncio.create_task(asyncio.to_thread(_lock, stack.database))
    await asyncio.sleep(0.5)
    began = [time.monotonic()]
    calls = [asyncio.create_task(caller.ask(owner="first", request_id=f"key {number}")) for number in range(5)]
    (stack.folder / "models" / "go").touch()
    while not locking.done():
        assert (await asyncio.wait_for(caller.snapshot(), 1)).controller_epoch, "what needs no write is answered all the time"
        await asyncio.sleep(0.5)
        began.append(time.monotonic())
        calls.append(asyncio.create_task(caller.ask(owner="later", request_id=f"key {len(calls)}")))
    unlocked_s = await locking
    answers = await asyncio.gather(*calls)
    _check(answers, [began[0]] * 5 + began[1:], unlocked_s)
    assert (await caller.ask("afterwards")).code == ACCEPTED
    # Durable means: killed right now, all of them are still there.
    stack.kill(ADMISSION)
    await caller.until_serving()
    for answer in answers:
        if answer.code == ACCEPTED:
            await caller.until(answer.task_id, _is_done)
    task = await caller.until(in_work, _is_done)
    assert task.attempt == 1, "the lane kept its lease"
    assert "lane_lost" not in [event.event_type for event in task.events]
    assert stack.unexpected_exits() == ()
    assert admission != stack.pid(ADMISSION), "killed once, by the test"


def _check(answers: list[Answer], began_s: list[float], unlocked_s: float) -> None:
    assert {answer.code for answer in answers} <= {ACCEPTED, "service_unavailable"}
    assert "service_unavailable" in {answer.code for answer in answers}, "the lock outlasts two writes, each of which waits 5 s"
    for answer, began in zip(answers, began_s, strict=True):
        if answer.code == ACCEPTED:
            assert began + answer.elapsed_s >= unlocked_s, "accepted while nothing could be stored"


def _is_done(task: task_pb2.Task) -> bool:
    assert task.state not in (task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED), task
    return task.state == task_pb2.TASK_STATE_DONE


def _lock(database: Path) -> float:
    """Holds the write lock; returns when it was given up (monotonic)."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=5)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(_LOCKED_S)
        unlocked_s = time.monotonic()
        connection.execute("ROLLBACK")
        return unlocked_s
