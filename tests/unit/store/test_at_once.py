"""Batches that the event loop writes itself: small ones, while the disk is quick; whatever goes wrong, the thread writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from admission.core.tasks import Event
from admission.store.at_once import IN_A_ROW, JUDGED, MEAN_S, SMALL_EVENTS, STALL_S, AtOnce
from admission.store.port import Batch, RequestTakenError, StaleEpochError, StoreUnavailableError
from admission.store.sql import SqlStore
from tests.contract.stored import events
from tests.harness.tasks import make_event, make_task

Opened = tuple[SqlStore, int, Path]


def at_once_of(store: SqlStore) -> AtOnce:
    """The store's."""
    at_once = store._commits._at_once
    assert at_once is not None
    return at_once


def judge(store: SqlStore, seconds: float) -> None:
    """As if each of the last commits had taken so long."""
    for _ in range(JUDGED):
        at_once_of(store).took(seconds)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    """A store on a quick disk, with its epoch and file; one task is stored."""
    path = tmp_path / "store.db"
    store = SqlStore(f"sqlite:///{path}", busy_timeout_s=0.1)
    await store.open()
    epoch = await store.claim_epoch()
    await store.write(epoch, small())
    judge(store, MEAN_S / 2)
    yield store, epoch, path
    await store.close()


def small(number: int = 0) -> Batch:
    """A decision."""
    return Batch(tasks=[make_task("task-2")], events=[make_event(task_id="task-2", value=str(number))], may_stop_loop=True)


@pytest.fixture
def threads(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each batch that the database's thread writes from now on."""
    store, _, _ = opened
    written: list[int] = []
    write: Callable[..., object] = store._commits._written_here

    def counted(epoch: int, rows: object) -> object:
        written.append(epoch)
        return write(epoch, rows)

    monkeypatch.setattr(store._commits, "_written_here", counted)
    return written


async def test_the_loop_writes_a_batch_when_it_is_small_and_the_disk_quick(opened: Opened, threads: list[int]) -> None:
    store, epoch, path = opened
    assert await store.write(epoch, small(1)) == 2
    assert threads == []
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT COUNT(*) FROM events").fetchone() == (2,)
    assert [event.value for event in await events(store, "task-2")] == ["0", "1"]


async def test_the_thread_writes_a_batch_when_somebody_waits_for_the_loop(opened: Opened, threads: list[int]) -> None:
    store, epoch, _ = opened
    assert await store.write(epoch, replace(small(1), may_stop_loop=False)) == 2
    assert len(threads) == 1


@pytest.mark.parametrize("seconds", [MEAN_S, STALL_S])
async def test_the_thread_writes_a_batch_when_the_disk_was_slow(opened: Opened, threads: list[int], seconds: float) -> None:
    # Each commit a little slow, or a single one that stalled.
    store, epoch, _ = opened
    for _ in range(JUDGED if seconds == MEAN_S else 1):
        at_once_of(store).took(seconds)
    assert await store.write(epoch, small(1)) == 2
    assert len(threads) == 1


async def test_the_thread_writes_a_batch_when_it_is_large_or_deletes(opened: Opened, threads: list[int]) -> None:
    store, epoch, _ = opened
    many: list[Event] = [make_event(task_id="task-2", value=str(number)) for number in range(SMALL_EVENTS + 1)]
    await store.write(epoch, Batch(events=many, may_stop_loop=True))
    judge(store, MEAN_S / 2)
    await store.write(epoch, Batch(deleted=[make_task("task-2").task_id], may_stop_loop=True))
    assert len(threads) == 2
    assert await store.task(make_task("task-2").task_id) is None


async def test_the_thread_gets_a_batch_for_the_log_when_the_loop_wrote_many_in_a_row(opened: Opened, threads: list[int]) -> None:
    store, epoch, _ = opened
    for number in range(IN_A_ROW + 1):
        judge(store, MEAN_S / 2)
        await store.write(epoch, small(number))
    assert len(threads) == 1


async def test_the_thread_waits_for_the_lock_when_another_program_has_it(opened: Opened, threads: list[int]) -> None:
    store, epoch, path = opened
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            await store.write(epoch, small(1))
    assert await store.write(epoch, small(2)) == 2
    assert len(threads) == 2
    judge(store, MEAN_S / 2)
    assert await store.write(epoch, small(3)) == 3
    assert len(threads) == 2


async def test_the_answers_are_the_same_when_a_batch_cannot_be_stored(opened: Opened) -> None:
    store, epoch, path = opened
    await store.write(epoch, Batch(tasks=[make_task("task-3", request_id="key-1", owner="me")], may_stop_loop=True))
    judge(store, MEAN_S / 2)
    with pytest.raises(RequestTakenError):
        await store.write(epoch, Batch(tasks=[make_task("task-4", request_id="key-1", owner="me")], may_stop_loop=True))
    newer = SqlStore(f"sqlite:///{path}")
    await newer.open()
    await newer.claim_epoch()
    judge(store, MEAN_S / 2)
    with pytest.raises(StaleEpochError):
        await store.write(epoch, small(1))
    await newer.close()
    assert [event.value for event in await events(store, "task-2")] == ["0"]
