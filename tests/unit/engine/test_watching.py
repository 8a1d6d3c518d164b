"""Watchers see every recorded event once and in order, however slow they are and wherever they go on; none holds up another."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from admission.core.lanes import Outcome, Work
from admission.core.tasks import Failure, FailureCode, MemoryRecord, Stage, TaskId, TaskState
from admission.engine_types import TaskChange, UnknownTaskError
from admission.store.port import EventPage, EventQuery, StaleEpochError
from tests.harness.engine import PATIENCE_S, Rig, settle


async def _to_the_end(rig: Rig, task_id: TaskId, after: int = 0) -> list[TaskChange]:
    return [change async for change in rig.engine.watch(task_id, after)]


def _events(changes: list[TaskChange]) -> list[str]:
    return [event.event_type for change in changes for event in change.events]


async def test_watcher_gets_every_event_of_its_task_once_and_in_order(rig: Rig) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    watcher = asyncio.create_task(_to_the_end(rig, task.task_id))
    await settle()
    await lane.finish(await lane.leased())
    changes = await asyncio.wait_for(watcher, PATIENCE_S)
    assert _events(changes) == ["accepted", "attempt_started", "memory_record", "attempt_ended", "ended"]
    assert changes[-1].view.task.state is TaskState.DONE
    sequences = [event.sequence for change in changes for event in change.events]
    assert sequences == sorted(set(sequences))


async def test_watcher_that_comes_late_gets_all_events_at_once(rig: Rig) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    await lane.finish(await lane.leased())
    await settle()
    changes = await asyncio.wait_for(_to_the_end(rig, task.task_id), PATIENCE_S)
    assert len(changes) == 1
    assert _events(changes)[0] == "accepted"
    assert _events(changes)[-1] == "ended"


async def test_watcher_goes_on_from_a_sequence_without_a_gap_or_a_repetition(rig: Rig) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    async with aclosing(rig.engine.watch(task.task_id)) as watching:
        first = await anext(watching)
    await rig.restart()
    lane = await rig.lane()
    await lane.finish(await lane.leased())
    later = await asyncio.wait_for(_to_the_end(rig, task.task_id, first.last_sequence), PATIENCE_S)
    assert _events([first, *later]) == ["accepted", "attempt_started", "memory_record", "attempt_ended", "ended"]


async def test_watcher_that_goes_on_is_not_shown_the_past_by_an_admission_that_was_replaced(rig: Rig) -> None:
    await rig.lane()
    task = await rig.submit()
    async with aclosing(rig.engine.watch(task.task_id)) as watching:
        told = await anext(watching)
    # Its successor may have ended the task since, and told this watcher.
    await rig.store.claim_epoch()
    with pytest.raises(StaleEpochError, match="rules no more"):
        await _to_the_end(rig, task.task_id, told.last_sequence)


async def test_slow_watcher_gets_progress_merged_and_holds_up_nobody(rig: Rig) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    leased = await lane.leased()
    async with aclosing(rig.engine.watch(task.task_id)) as slow:
        await anext(slow)
        for progress in range(10, 60):
            await lane.report(Work(task_id=leased.task_id, attempt=1, stage=Stage.INFERENCE, progress=progress))
            await settle()
        assert (await anext(slow)).view.task.progress == 59


async def test_watcher_is_told_of_its_new_place_when_a_task_ahead_leaves_the_queue(rig: Rig) -> None:
    lane = await rig.lane()
    tasks = [await rig.submit() for _ in range(4)]
    rendered = await lane.leased()
    async with aclosing(rig.engine.watch(tasks[3].task_id)) as watching:
        assert (await anext(watching)).view.queue_position == 2
        await rig.engine.cancel(tasks[1].task_id)
        async with asyncio.timeout(PATIENCE_S):
            assert (await anext(watching)).view.queue_position == 1
            await lane.finish(rendered)
            await lane.leased()
            assert (await anext(watching)).view.queue_position == 0


async def test_watcher_at_an_unmoved_place_is_not_woken_when_others_join_behind_it(rig: Rig) -> None:
    lane = await rig.lane()
    await rig.submit()
    await lane.leased()
    task = await rig.submit()
    async with aclosing(rig.engine.watch(task.task_id)) as watching:
        await anext(watching)
        await rig.submit()
        rig.engine._watching._tell_places()
        (watcher,) = rig.engine._watching._watchers[task.task_id]
        assert not watcher.changed.is_set()


async def test_watch_of_a_cancelled_task_waits_for_its_last_record_when_its_end_is_stored_and_not_answered_yet(rig: Rig) -> None:
    # The store said that the task was over, and nothing had told the watcher of the record yet: it was let go without it.
    lane = await rig.lane()
    task = await rig.submit()
    await lane.leased()
    await rig.engine.cancel(task.task_id)
    rig.store.answers.clear()
    stopped = Outcome(failure=Failure(code=FailureCode.CANCELLED, message=""), memory=MemoryRecord(figures={"device": "cpu"}))
    await lane.report(Work(task_id=task.task_id, attempt=1, stage=Stage.ENCODING, progress=50, outcome=stopped))
    await settle()
    watcher = asyncio.create_task(_to_the_end(rig, task.task_id))
    await settle()
    rig.store.answers.set()
    changes = await asyncio.wait_for(watcher, PATIENCE_S)
    assert _events(changes)[-1] == "memory_record"
    assert not changes[-1].view.task.is_withdrawn


async def test_watch_of_a_cancelled_task_ends_with_its_last_memory_record(rig: Rig) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    await lane.leased()
    watcher = asyncio.create_task(_to_the_end(rig, task.task_id))
    await settle()
    await rig.engine.cancel(task.task_id)
    await settle()
    assert not watcher.done(), "the lane still works on it and owes the record"
    await lane.wish()
    await lane.report()
    changes = await asyncio.wait_for(watcher, PATIENCE_S)
    assert _events(changes)[-2:] == ["ended", "memory_record"]


async def test_watch_ends_when_the_task_is_deleted(rig: Rig) -> None:
    await rig.lane()
    task = await rig.submit()
    watcher = asyncio.create_task(_to_the_end(rig, task.task_id))
    await settle()
    await rig.engine.delete(task.task_id)
    await asyncio.wait_for(watcher, PATIENCE_S)


async def test_watch_of_nothing_is_refused(rig: Rig) -> None:
    with pytest.raises(UnknownTaskError):
        await anext(rig.engine.watch(TaskId("nobody")))


async def test_stored_events_are_read_to_the_end_in_pages(rig: Rig) -> None:
    await rig.lane()
    for _ in range(5):
        await rig.submit()
    await settle()
    pages = [page async for page in rig.engine.watch_events(EventQuery(limit=2), only_new=False, follow=False)]
    events = [event for page in pages for event in page.events]
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    assert sum(event.event_type == "accepted" for event in events) == 5
    assert pages[-1].last_sequence == await rig.store.last_sequence()


async def test_followers_are_told_what_is_recorded_from_now_on(rig: Rig) -> None:
    await rig.lane()
    await rig.submit()

    async def follow() -> list[str]:
        seen: list[str] = []
        async with aclosing(rig.engine.watch_events(EventQuery(), only_new=True, follow=True)) as pages:
            async for page in pages:
                seen += [event.event_type for event in page.events]
                if "ended" in seen:
                    break
        return seen

    followers = [asyncio.create_task(follow()) for _ in range(2)]
    await settle()
    task = await rig.submit()
    await rig.engine.cancel(task.task_id)
    seen = await asyncio.wait_for(asyncio.gather(*followers), PATIENCE_S)
    assert seen == [["accepted", "ended"]] * 2
    assert rig.engine._watching._followers == 0


async def test_follower_of_one_kind_of_event_moves_on_past_the_others(rig: Rig) -> None:
    await rig.lane()
    await rig.submit()
    await settle()
    query = EventQuery(event_types=frozenset({"ended"}))
    (page,) = [page async for page in rig.engine.watch_events(query, only_new=False, follow=False)]
    assert page.events == ()
    assert page.last_sequence == await rig.store.last_sequence()


async def test_watchers_and_polls_of_a_new_task_read_nothing_from_the_store(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    read = rig.store.events

    async def refused(query: EventQuery) -> EventPage:
        if query.task_id is not None:
            pytest.fail("the store was asked for the events of a task that this admission accepted")
        return await read(query)

    monkeypatch.setattr(rig.store, "events", refused)
    watcher = asyncio.create_task(_to_the_end(rig, task.task_id))
    await settle()
    await lane.finish(await lane.leased())
    seen = [event for change in await asyncio.wait_for(watcher, PATIENCE_S) for event in change.events]
    assert await rig.engine.task_events(task.task_id) == tuple(seen)
    monkeypatch.undo()
    assert (await rig.store.events(EventQuery(task_id=task.task_id))).events == tuple(seen)


async def test_deleted_task_is_not_remembered(rig: Rig) -> None:
    await rig.lane()
    task = await rig.submit()
    await rig.engine.delete(task.task_id)
    assert await rig.engine.task_events(task.task_id) == ()
