"""What is too old goes, with its files; what is used, new or kept for ever stays."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest

from admission import retention
from admission.core.tasks import TaskId, TaskState
from admission.retention import InWork, Keep, Keeper
from admission.store.access_port import AuditEntry
from admission.store.memory import MemoryStore
from admission.store.port import Batch
from runtime.clock import Reading
from runtime.objects import open_object_store
from tests.harness.tasks import make_task

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class _Now:
    """A clock that stands."""

    def now(self) -> Reading:
        return Reading(monotonic_s=0.0, utc=NOW)


class Rig:
    """A keeper of 30 days over a store in memory and a folder of objects."""

    def __init__(self, folder: Path, keep: Keep) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.objects = open_object_store(folder.as_uri())
        self.used: frozenset[str] = frozenset()
        self.epoch = 0
        self.access = self.store.access
        self.keeper = Keeper(
            store=self.store, access=self.access, objects=self.objects, clock=_Now(), keep=keep, in_work=InWork(used=lambda: self.used)
        )

    async def task(self, name: str, state: TaskState, age: timedelta, **changes: object) -> TaskId:
        """A stored task that was last changed so long ago, with one file."""
        task = make_task(task_id=TaskId(name), state=state, updated_at=NOW - age, **changes)
        await self.store.write(self.epoch, Batch(tasks=[task]))
        await obstore.put_async(self.objects, f"results/{name}/1/video.mp4", b"video")
        return task.task_id

    async def image(self, name: str, age: timedelta) -> str:
        """A stored image that was uploaded so long ago."""
        key = f"inputs/{name}"
        await obstore.put_async(self.objects, key, b"image")
        moment = (NOW - age).timestamp()
        os.utime(self.folder / key, (moment, moment))
        return key

    def has(self, key: str) -> bool:
        """The object is there."""
        return (self.folder / key).exists()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, Keep(done=30 * DAY, failed=10 * DAY, events=None, audit=None))
    await rig.store.open()
    rig.epoch = await rig.store.claim_epoch()
    yield rig
    await rig.store.close()


async def test_ended_task_and_its_files_go_when_they_are_too_old(rig: Rig) -> None:
    old = await rig.task("old", TaskState.DONE, 31 * DAY)
    new = await rig.task("new", TaskState.DONE, 29 * DAY)
    failed = await rig.task("failed", TaskState.FAILED, 11 * DAY)
    assert await rig.keeper.remove_old(rig.epoch) == 2
    assert [await rig.store.task(task_id) is None for task_id in (old, new, failed)] == [True, False, True]
    assert [rig.has(f"results/{name}/1/video.mp4") for name in ("old", "new", "failed")] == [False, True, False]


async def test_task_that_has_not_ended_stays_however_old_it_is(rig: Rig) -> None:
    queued = await rig.task("queued", TaskState.QUEUED, 400 * DAY)
    withdrawn = await rig.task("withdrawn", TaskState.CANCELLED, 400 * DAY, is_withdrawn=True)
    assert await rig.keeper.remove_old(rig.epoch) == 0
    assert await rig.store.task(queued) is not None
    assert await rig.store.task(withdrawn) is not None


async def test_nothing_goes_when_everything_is_kept_for_ever(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Keep(done=None, failed=None, events=None, audit=None))
    await rig.store.open()
    rig.epoch = await rig.store.claim_epoch()
    await rig.task("old", TaskState.DONE, 4000 * DAY)
    assert await rig.keeper.remove_old(rig.epoch) == 0


async def test_image_goes_when_two_looks_found_it_unused(rig: Rig) -> None:
    key = await rig.image("a" * 64, 2 * DAY)
    assert await rig.keeper.remove_unused_inputs() == 0
    assert await rig.keeper.remove_unused_inputs() == 1
    assert not rig.has(key)


async def test_image_stays_when_it_is_new_or_a_task_or_a_held_request_uses_it(rig: Rig) -> None:
    new, stored, held = [await rig.image(letter * 64, age) for letter, age in (("a", DAY / 2), ("b", 2 * DAY), ("c", 2 * DAY))]
    await rig.task("user", TaskState.DONE, DAY, parameters={"reference_image": {"key": stored}})
    rig.used = frozenset({held})
    for _ in range(3):
        assert await rig.keeper.remove_unused_inputs() == 0
    assert all(rig.has(key) for key in (new, stored, held))


async def test_audit_entries_go_when_they_are_too_old(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Keep(done=None, failed=None, events=None, audit=30 * DAY))
    await rig.store.open()
    ages = [31 * DAY, 30 * DAY + DAY / 24, 29 * DAY, 0 * DAY]
    entries = [AuditEntry(called_at=NOW - age, address="", action="a", details=str(age), success=True) for age in ages]
    await rig.access.write_audit(entries, {})
    assert await rig.keeper.remove_old_audit() == 2
    assert [entry.details for entry in await rig.access.audit(10)] == [str(age) for age in reversed(ages[2:])]


async def test_newest_audit_entries_of_each_kind_stay_when_there_are_too_many(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AUDIT_ENTRIES", 3)
    monkeypatch.setattr(retention, "_AUDIT_AT_ONCE", 2)
    monkeypatch.setattr(retention, "_PAUSE_S", 0.0)
    for success, count in ((True, 3), (False, 8)):
        entries = [AuditEntry(called_at=NOW, address="", action="a", details=str(number), success=success) for number in range(count)]
        await rig.access.write_audit(entries, {})
    assert await rig.keeper.remove_old_audit() == 5
    kept = await rig.access.audit(100)
    assert [entry.details for entry in kept if entry.success] == ["2", "1", "0"]
    assert [entry.details for entry in kept if not entry.success] == ["7", "6", "5"]
