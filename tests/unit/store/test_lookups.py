"""Lookups that come together share a look; every one is answered, also when the look fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import make_url

from admission.core.tasks import Task, TaskId
from admission.store.lookups import RequestLookups
from admission.store.port import Batch, StoreUnavailableError
from admission.store.sql import SqlStore
from admission.store.sqlite import SqliteBackend
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


class _Endless:
    """Lookups whose looks never end by themselves."""

    def __init__(self) -> None:
        self.looking = asyncio.Event()
        self.lookups = RequestLookups(SqliteBackend(make_url("sqlite:///unused.db"), busy_timeout_s=1.0), self._read)

    async def _read(self, _work: object) -> dict[tuple[str, str], Task]:
        self.looking.set()
        await asyncio.Event().wait()
        raise AssertionError

    def ask(self, key: str) -> asyncio.Task[Task | None]:
        """Somebody who asks."""
        return asyncio.create_task(self.lookups.find(("owner", key)), name=f"asker-{key}")


def _looks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "store-lookups"]


async def test_everyone_is_told_when_the_lookups_close_during_a_look() -> None:
    endless = _Endless()
    asking = [endless.ask("in this look")]
    await endless.looking.wait()
    asking.append(endless.ask("in the next"))
    await asyncio.sleep(0)
    await endless.lookups.close()
    assert _looks() == []
    assert [type(answer) for answer in await asyncio.gather(*asking, return_exceptions=True)] == [StoreUnavailableError] * 2


async def test_asker_is_told_when_the_lookups_close_before_the_look_began() -> None:
    endless = _Endless()
    asking = endless.ask("key")
    # The asker has run to its wait; the look it made has not run at all.
    await asyncio.sleep(0)
    await endless.lookups.close()
    assert _looks() == []
    with pytest.raises(StoreUnavailableError):
        await asking
    assert not endless.looking.is_set()


async def test_no_look_is_left_when_the_store_closes_while_one_is_under_way(tmp_path: Path) -> None:
    store = await _store(tmp_path)
    asking = asyncio.create_task(store.task_of_request("owner", "key"))
    await asyncio.sleep(0)
    assert _looks() == ["store-lookups"]
    await store.close()
    assert _looks() == []
    with pytest.raises(StoreUnavailableError):
        await asking


async def test_asking_begins_anew_when_the_store_is_opened_again(tmp_path: Path) -> None:
    store = await _store(tmp_path)
    assert await store.task_of_request("owner", "key") is None
    await store.close()
    await store.open()
    try:
        assert await store.task_of_request("owner", "key") is None
    finally:
        await store.close()
