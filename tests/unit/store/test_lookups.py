"""Lookups that come together share a look; every one is answered, also when the look fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from admission.core.tasks import TaskId
from admission.store.port import Batch, StoreUnavailableError
from admission.store.sql import SqlStore
from tests.harness.tasks import make_task


async def _store(folder: Path) -> SqlStore:
    store = SqlStore(f"sqlite:///{folder / 'admission.db'}")
    await store.open()
    return store


async def test_each_asker_gets_its_own_task_when_many_ask_at_once(tmp_path: Path) -> None:
    store = await _store(tmp_path)
    try:
        tasks = [make_task(task_id=TaskId(f"task-{index}"), owner="owner", request_id=f"key-{index}") for index in range(150)]
        await store.write(await store.claim_epoch(), Batch(tasks=tasks))
        asked = [f"key-{index}" for index in range(200)] + ["key-7", "key-7"]
        found = await asyncio.gather(*(store.task_of_request("owner", key) for key in asked))
        assert [None if task is None else task.request_id for task in found] == [
            key if int(key.removeprefix("key-")) < 150 else None for key in asked
        ]
    finally:
        await store.close()


async def test_what_was_committed_before_is_found_when_others_ask_all_the_time(tmp_path: Path) -> None:
    store = await _store(tmp_path)
    try:
        epoch = await store.claim_epoch()

        async def ask_often() -> None:
            while True:
                await store.task_of_request("owner", "none")

        others = [asyncio.create_task(ask_often()) for _ in range(8)]
        for index in range(50):
            await store.write(epoch, Batch(tasks=[make_task(task_id=TaskId(f"task-{index}"), owner="owner", request_id=f"key-{index}")]))
            assert await store.task_of_request("owner", f"key-{index}") is not None
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    finally:
        await store.close()


async def test_every_asker_is_told_when_the_store_is_closed(tmp_path: Path) -> None:
    store = await _store(tmp_path)
    await store.close()
    answers = await asyncio.gather(*(store.task_of_request("owner", f"key-{index}") for index in range(5)), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailableError) for answer in answers)


async def test_asking_goes_on_when_an_asker_left(tmp_path: Path) -> None:
    store = await _store(tmp_path)
    try:
        leaving = asyncio.create_task(store.task_of_request("owner", "key"))
        staying = asyncio.create_task(store.task_of_request("owner", "key"))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying is None
        with pytest.raises(asyncio.CancelledError):
            await leaving
    finally:
        await store.close()
