"""Imports and the disk: an import is durable or leaves nothing, whatever fails on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import obstore
import pytest

from admission.core.tasks import Event, Result, Task, TaskId, TaskState
from admission.imports import Imports, Landing
from admission.object_sweeper import ObjectSweeper
from admission.store.port import EventQuery, StoreUnavailableError
from tests.harness.admission_services import until
from tests.harness.engine import Rig, settle
from tests.harness.tasks import make_task

OLD = TaskId("old-1")


def ended(landing: Landing, task_id: str = OLD) -> Task:
    """A done task with this landing's file."""
    result = Result(
        video_key=landing.key("video.mp4"), media_type="video/mp4", size_bytes=5, sha256="0" * 64, preview_key="", width=0, height=0,
        num_frames=0, fps=0,
    )  # fmt: skip
    return make_task(task_id, owner="key", state=TaskState.DONE, queued_at=None, result=result)


async def brought(rig: Rig, task_id: TaskId = OLD) -> None:
    """Imports a task with one file."""
    async with rig.engine.importing(task_id) as landing:
        assert landing is not None
        await landing.write("video.mp4", b"video")
        await landing.commit(ended(landing, task_id))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


async def is_stored(rig: Rig) -> bool:
    return await rig.store.task(OLD) is not None


async def events(rig: Rig) -> tuple[Event, ...]:
    return (await rig.store.events(EventQuery(task_id=OLD))).events


async def test_task_and_event_are_one_write_when_an_import_is_committed(rig: Rig, tmp_path: Path) -> None:
    await brought(rig)

    [batch] = [batch for batch in rig.store.batches if batch.tasks]
    assert ([task.task_id for task in batch.tasks], [event.event_type for event in batch.events]) == ([OLD], ["imported"])
    view = await rig.engine.task(OLD)
    assert view is not None
    assert files(tmp_path) == [view.task.result.video_key if view.task.result else ""]


async def test_import_is_refused_and_told_at_once_when_the_disk_is_full(rig: Rig, tmp_path: Path) -> None:
    rig.store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(brought(rig), 5)
    rig.store.fail_writes = False

    assert await rig.engine.task(OLD) is None
    # What a write that failed left on the disk is known to nobody for certain: the look for broken imports decides.
    assert len(files(tmp_path)) == 2
    assert await rig.engine.imports.remove_broken() == 1
    assert files(tmp_path) == []
    await brought(rig)
    assert len(files(tmp_path)) == 1


async def test_files_stay_when_a_write_that_seemed_to_fail_was_stored(rig: Rig, tmp_path: Path) -> None:
    # As a database server that goes away during the commit.
    async with rig.engine.importing(OLD) as landing:
        assert landing is not None
        await landing.write("video.mp4", b"video")
        rig.store.answers.clear()
        committing = asyncio.create_task(landing.commit(ended(landing)))
        await until(lambda: is_stored(rig))
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        # It goes on without its caller.
        rig.store.answers.set()

    assert await rig.engine.imports.remove_broken() == 0
    view = await rig.engine.task(OLD)
    assert view is not None
    assert view.task.result is not None
    assert files(tmp_path) == [view.task.result.video_key]


async def test_nothing_is_written_when_another_admission_rules(rig: Rig, tmp_path: Path) -> None:
    await rig.store.claim_epoch()
    importing = asyncio.create_task(brought(rig))
    with pytest.raises(Exception, match="epoch"):
        await asyncio.wait_for(rig.engine.wait_failed(), 5)
    await rig.engine.stop()
    with pytest.raises((StoreUnavailableError, asyncio.CancelledError)):
        await importing
    assert await rig.store.task(OLD) is None
    assert await events(rig) == ()


async def test_import_waits_for_a_deletion_of_the_same_id_when_its_files_are_still_being_removed(rig: Rig, tmp_path: Path) -> None:
    await brought(rig)
    release = asyncio.Event()

    async def not_yet() -> bool:
        await release.wait()
        return False

    await rig.engine.delete(OLD)
    rig.engine.imports.sweeper.discard(f"results/{OLD}/", unless=not_yet)
    again = asyncio.create_task(brought(rig))
    await settle()
    assert files(tmp_path / "imports") == []
    release.set()
    await again

    view = await rig.engine.task(OLD)
    assert view is not None
    assert view.task.result is not None
    assert files(tmp_path) == [view.task.result.video_key]


async def test_the_next_of_an_id_goes_on_when_one_that_waits_is_cancelled(rig: Rig) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with rig.engine.importing(OLD) as landing:
            assert landing is not None
            begun.set()
            await go_on.wait()

    holder = asyncio.create_task(first())
    await begun.wait()
    waiting, last = asyncio.create_task(brought(rig)), asyncio.create_task(brought(rig))
    await settle()
    waiting.cancel()
    await settle()
    # Still alone, though the one between them is gone.
    assert not last.done()
    go_on.set()
    await asyncio.gather(holder, last)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await rig.engine.task(OLD) is not None
    assert rig.engine.imports._turns == {}


async def test_import_says_unavailable_when_the_object_store_fails(rig: Rig, tmp_path: Path) -> None:
    # A file where the folder should be.
    (tmp_path / "results").write_bytes(b"")
    with pytest.raises(StoreUnavailableError):
        await brought(rig)
    assert await rig.engine.task(OLD) is None


async def test_nothing_of_others_is_removed_when_a_mark_is_of_no_import(tmp_path: Path) -> None:
    # A mark without a name would lead to every file of the task.
    rig = Rig(tmp_path)
    await rig.store.open()
    for key in ("imports/task-2", "imports/task-1/x", f"imports/task-1/{'a' * 16}/b", "results/task-1/1/v.mp4", "results/task-2/1/v.mp4"):
        await obstore.put_async(rig.objects, key, b"x")

    async def is_known(_: TaskId) -> bool:
        raise AssertionError

    async def put(_: Task) -> None:
        raise AssertionError

    imports = Imports(store=rig.store, objects=rig.objects, sweeper=ObjectSweeper(rig.objects), is_known=is_known, put=put)
    assert await imports.remove_broken() == 0
    assert {"results/task-1/1/v.mp4", "results/task-2/1/v.mp4"} <= set(files(tmp_path))
