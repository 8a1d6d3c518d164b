"""Batches that a process of its own writes: stored once whatever happens to it, and the store goes on without it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from admission.core.tasks import LaneMode
from admission.store import commits, writer_process
from admission.store.access_port import Session
from admission.store.port import Batch, RequestTakenError, Retention, StaleEpochError, StoreUnavailableError
from admission.store.rows import utc_now
from admission.store.sql import SqlStore
from tests.contract.stored import events
from tests.harness.tasks import make_event, make_known_lane, make_task

PATIENCE_S = 30.0

HOLDER = """
import asyncio, sys
from pathlib import Path
from tests.unit.store.test_writer_process import opened, pid_of

async def main():
    store, _ = await opened(Path(sys.argv[1]))
    print(pid_of(store), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def pid_of(store: SqlStore) -> int:
    """Of the writer's process, which must be there."""
    process = store._commits._process
    assert process is not None
    assert process._process is not None
    return process._process.pid


async def opened(path: Path, busy_timeout_s: float = 5.0) -> tuple[SqlStore, int]:
    """A store whose writer's process is there, and its epoch; eight events are stored."""
    store = SqlStore(f"sqlite:///{path}", busy_timeout_s=busy_timeout_s, has_writer=True)
    await store.open()
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(tasks=[make_task()], events=[make_event(value=str(number)) for number in range(commits.CROWD)]))
    starting = store._commits._starting
    assert starting is not None
    await asyncio.wait_for(starting, PATIENCE_S)
    return store, epoch


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[tuple[SqlStore, int, Path]]:
    """Such a store, with its file."""
    path = tmp_path / "store.db"
    store, epoch = await opened(path)
    yield store, epoch, path
    await store.close()


def second(number: int = 0) -> Batch:
    """A batch like any other."""
    return Batch(tasks=[make_task("task-2")], events=[make_event(task_id="task-2", value=str(number), reason=LaneMode.DEDICATED)])


async def test_batches_are_written_by_another_process_when_many_decisions_came_together(held: tuple[SqlStore, int, Path]) -> None:
    store, epoch, _ = held
    before = psutil.Process(pid_of(store)).io_counters().write_chars
    last = await store.write(epoch, second())
    assert psutil.Process(pid_of(store)).io_counters().write_chars > before
    assert last == commits.CROWD + 1 == await store.last_sequence()
    assert await store.task(make_task("task-2").task_id) == make_task("task-2")
    assert [event.value for event in await events(store, "task-2")] == ["0"]


async def test_no_process_is_started_when_decisions_come_one_by_one(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}", has_writer=True)
    await store.open()
    epoch = await store.claim_epoch()
    for number in range(commits.CROWD):
        await store.write(epoch, second(number))
    assert store._commits._starting is None
    await store.close()


async def test_a_process_is_started_when_batches_come_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "BUSY", 3)
    store = SqlStore(f"sqlite:///{tmp_path / 'store.db'}", has_writer=True)
    await store.open()
    epoch = await store.claim_epoch()
    # Should a second pass between two of them, the count begins again.
    for number in range(20):
        await store.write(epoch, second(number))
    assert store._commits._starting is not None
    await store.close()


async def test_a_batch_is_stored_once_when_the_process_was_killed_before_it(held: tuple[SqlStore, int, Path]) -> None:
    store, epoch, _ = held
    os.kill(pid_of(store), signal.SIGKILL)
    assert await store.write(epoch, second()) == commits.CROWD + 1
    assert await store.write(epoch, second(1)) == commits.CROWD + 2
    assert [event.value for event in await events(store, "task-2")] == ["0", "1"]
    assert store._commits._process is None


@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_batch_is_stored_once_when_the_process_is_killed_in_the_middle(
    held: tuple[SqlStore, int, Path], *, is_stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a lock in its way nothing is stored when it dies; when its answer is lost, everything is.
    store, epoch, path = held
    process = store._commits._process
    assert process is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        if is_stored:
            monkeypatch.setattr(process, "_hear", lambda _: process._lose("a test says so"))
            assert await store.write(epoch, second()) == commits.CROWD + 1
        else:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(store.write(epoch, second()), name="write")
            await asyncio.sleep(0.1)
            os.kill(pid_of(store), signal.SIGKILL)
            await asyncio.sleep(0)
            other.execute("ROLLBACK")
            assert await writing == commits.CROWD + 1
    assert [event.value for event in await events(store, "task-2")] == ["0"]
    assert await store.last_sequence() == commits.CROWD + 1


async def test_a_batch_is_stored_once_when_the_process_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_process, "_PATIENCE_S", 0.2)
    store, epoch = await opened(tmp_path / "store.db", busy_timeout_s=0.1)
    stopped = pid_of(store)
    os.kill(stopped, signal.SIGSTOP)
    assert await asyncio.wait_for(store.write(epoch, second()), PATIENCE_S) == commits.CROWD + 1
    assert [event.value for event in await events(store, "task-2")] == ["0"]
    assert not psutil.pid_exists(stopped)
    await store.close()


async def test_another_process_is_started_later_when_one_was_lost(held: tuple[SqlStore, int, Path]) -> None:
    store, epoch, _ = held
    lost = pid_of(store)
    os.kill(lost, signal.SIGKILL)
    crowd = Batch(events=[make_event()] * commits.CROWD)
    await store.write(epoch, crowd)
    assert store._commits._process is None
    store._commits._not_before_s = 0.0
    await store.write(epoch, crowd)
    starting = store._commits._starting
    assert starting is not None
    await asyncio.wait_for(starting, PATIENCE_S)
    assert pid_of(store) != lost
    assert await store.write(epoch, crowd) == 4 * commits.CROWD


async def test_other_writes_come_between_batches_when_these_never_pause(tmp_path: Path) -> None:
    # Whoever meets a lock is refused at once: so a turn it was, and no luck.
    store, epoch = await opened(tmp_path / "store.db", busy_timeout_s=0.0)
    large, is_over = Batch(events=[make_event()] * 200), False

    async def busy() -> None:
        while not is_over:
            await store.write(epoch, large)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(busy())
        for number in range(40):
            session = Session(session_id=f"id-{number}", token_sha256=f"hash-{number}", expires_at=utc_now())
            await store.access.add_sessions([session])
            await store.prune(epoch, Retention(tasks_before={}, limit=1))
        is_over = True
    assert pid_of(store)
    await store.close()


async def test_other_writes_do_not_wait_for_a_process_that_never_answers(
    held: tuple[SqlStore, int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, epoch, _ = held
    monkeypatch.setattr(commits, "TURN_S", 0.05)
    stopped = pid_of(store)
    os.kill(stopped, signal.SIGSTOP)
    writing = asyncio.create_task(store.write(epoch, second()), name="write")
    await asyncio.sleep(0)
    await asyncio.wait_for(store.access.add_sessions([Session(session_id="a", token_sha256="b", expires_at=utc_now())]), 5)
    assert not writing.done()
    os.kill(stopped, signal.SIGCONT)
    assert await writing == commits.CROWD + 1


async def test_the_process_says_why_when_it_stores_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store, epoch = await opened(path, busy_timeout_s=0.1)
    process = pid_of(store)
    keyed = make_task("task-3", request_id="key-1", owner="me")
    await store.write(epoch, Batch(tasks=[keyed]))
    with pytest.raises(RequestTakenError):
        await store.write(epoch, Batch(tasks=[make_task("task-4", request_id="key-1", owner="me")]))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            await store.write(epoch, second())
    await store.write(epoch, second())
    newer = SqlStore(f"sqlite:///{path}")
    await newer.open()
    await newer.claim_epoch()
    with pytest.raises(StaleEpochError):
        await store.write(epoch, Batch(lanes=[make_known_lane()]))
    await newer.close()
    assert pid_of(store) == process
    await store.close()
    assert not psutil.pid_exists(process)


async def test_the_answer_of_a_cancelled_write_is_not_taken_for_the_next_one(held: tuple[SqlStore, int, Path]) -> None:
    store, epoch, path = held
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.write(epoch, second()), name="write")
        await asyncio.sleep(0.1)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        other.execute("ROLLBACK")
    assert await store.write(epoch, second(1)) == commits.CROWD + 2
    assert [event.value for event in await events(store, "task-2")] == ["0", "1"]


def test_the_process_ends_when_admission_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "store.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as admission:
        assert admission.stdout is not None
        writer = psutil.Process(int(admission.stdout.readline()))
        admission.kill()
        writer.wait(PATIENCE_S)
    assert not writer.is_running()


def test_the_process_ends_quietly_when_admission_was_gone_before_it_began(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        url, descriptor = f"sqlite:///{tmp_path / 'store.db'}", theirs.fileno()
        command = [sys.executable, "-m", "admission.store.writer_program", url, "5.0", str(descriptor)]
        ended = subprocess.run(command, pass_fds=[descriptor], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
