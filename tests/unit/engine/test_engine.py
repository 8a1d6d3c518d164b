"""The shell: nothing is told before it is on disk, callers and lanes get exactly what the core decided, a failing store loses nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import obstore
import pytest

from admission import crowd, reign
from admission.core.lanes import Report, Work
from admission.core.tasks import Stage, TaskId, TaskState
from admission.engine import Engine
from admission.engine_types import InvalidReportError, OverloadedError, SessionEndedError, UnknownTaskError
from admission.store.port import StaleEpochError, StoreUnavailableError, TaskQuery
from tests.harness.engine import PATIENCE_S, LaneDouble, Rig, settle


async def test_acceptance_is_not_answered_before_it_is_on_disk(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.gate.clear()
    call = rig.submit()
    await settle()
    assert not call.done()
    rig.store.gate.set()
    task = await call
    assert (await rig.store.task(task.task_id)) is not None


async def test_lease_is_not_sent_before_it_is_on_disk(rig: Rig) -> None:
    lane = await rig.lane()
    await lane.wish()
    await settle()
    rig.store.gate.clear()
    rig.submit()
    sent = asyncio.create_task(lane.session.next_wish())
    await settle()
    assert not sent.done()
    rig.store.gate.set()
    assert (await asyncio.wait_for(sent, PATIENCE_S)).task is not None


async def test_many_acceptances_share_one_commit(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.batches.clear()
    rig.store.gate.clear()
    calls = [rig.submit(prompt=f"boat {number}") for number in range(12)]
    await settle()
    rig.store.gate.set()
    await asyncio.gather(*calls)
    assert len(rig.store.batches) <= 2  # the first went alone, the rest gathered behind it


async def test_decisions_that_come_one_by_one_share_a_commit_when_many_came_before(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "_EACH_S", 0.05)
    monkeypatch.setattr(crowd, "_PAUSE_S", 10 * PATIENCE_S)
    await rig.lane()
    await asyncio.gather(*[rig.submit(prompt=f"boat {number}") for number in range(12)])
    rig.store.batches.clear()
    first = rig.submit()
    await settle()
    second = rig.submit()
    await asyncio.gather(first, second)
    assert len(rig.store.batches) == 1


async def test_as_many_as_last_time_wait_for_no_more_when_more_did_not_come(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "_PAUSE_S", 10 * PATIENCE_S)
    await rig.lane()

    async def all_of_them() -> None:
        await asyncio.gather(*[rig.submit(prompt=f"boat {number}") for number in range(crowd.LEAST)])

    await all_of_them()
    # Now it is tried whether there are more, for a moment.
    monkeypatch.setattr(crowd, "_EACH_S", 0.0001)
    await all_of_them()
    # They are as many again: whoever waited for one more would wait for long.
    monkeypatch.setattr(crowd, "_EACH_S", 10 * PATIENCE_S)
    for _ in range(3):
        await asyncio.wait_for(all_of_them(), PATIENCE_S)


async def test_who_comes_after_a_pause_waits_for_no_crowd(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "_EACH_S", 10 * PATIENCE_S)
    # Any time without a decision is one.
    monkeypatch.setattr(crowd, "_PAUSE_S", 0.0)
    await rig.lane()
    await asyncio.gather(*[rig.submit(prompt=f"boat {number}") for number in range(12)])
    await settle()
    await asyncio.wait_for(rig.submit(), PATIENCE_S)


async def test_lone_decision_waits_for_no_other(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "_EACH_S", 10 * PATIENCE_S)
    await rig.lane()
    for _ in range(3):
        await asyncio.wait_for(rig.submit(), PATIENCE_S)


async def test_caller_hears_and_nothing_is_left_when_the_acceptance_cannot_be_stored(rig: Rig) -> None:
    lane = await rig.lane()
    await settle()
    rig.store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await rig.submit()
    rig.store.fail_writes = False
    assert rig.engine.snapshot().queues[0].depth == 0
    task = await rig.submit()
    assert (await lane.leased()).task_id == task.task_id


async def test_result_is_committed_when_the_store_works_again(rig: Rig) -> None:
    lane = await rig.lane()
    await rig.submit()
    task = await lane.leased()
    rig.store.fail_writes = True
    await lane.finish(task)
    await settle()
    stored = await rig.store.task(task.task_id)
    assert stored is not None
    assert stored.state is TaskState.LEASED
    rig.store.fail_writes = False
    while (wish := await lane.wish()).wish.acknowledged is None:
        pass
    assert wish.wish.acknowledged.task_id == task.task_id
    stored = await rig.store.task(task.task_id)
    assert stored is not None
    assert stored.state is TaskState.DONE


async def test_place_is_free_when_a_held_caller_hangs_up(rig: Rig) -> None:
    call = rig.submit()
    await settle()
    assert rig.engine.snapshot().degraded.held == 1
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert rig.engine.snapshot().degraded.held == 0


async def test_overload_is_answered_without_a_write_when_the_degraded_queue_is_full(rig: Rig) -> None:
    held = [rig.submit() for _ in range(25)]
    await settle()
    rig.store.batches.clear()
    with pytest.raises(OverloadedError) as refused:
        await rig.submit()
    assert (refused.value.reply.depth, refused.value.reply.cause) == (25, "depth")
    assert rig.store.batches == []
    for call in held:
        call.cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def test_held_caller_hears_of_the_wait_when_30_s_have_passed(rig: Rig) -> None:
    call = rig.submit()
    await settle()
    rig.clock.advance(30.0)
    rig.engine.tick()
    with pytest.raises(OverloadedError) as refused:
        await call
    assert refused.value.reply.waited_s == pytest.approx(30.0)


async def test_seed_is_chosen_when_the_request_leaves_it_open(rig: Rig) -> None:
    await rig.lane()
    task = await rig.submit(seed=-1)
    seed = task.parameters["seed"]
    assert isinstance(seed, int)
    assert seed >= 0


async def test_watcher_sees_the_newest_and_the_last_state(rig: Rig) -> None:
    lane = await rig.lane()
    accepted = await rig.submit()

    async def watch() -> list[TaskState]:
        return [change.view.task.state async for change in rig.engine.watch(accepted.task_id)]

    watcher = asyncio.create_task(watch())
    await settle()
    await lane.finish(await lane.leased())
    states = await asyncio.wait_for(watcher, PATIENCE_S)
    assert states[-1] is TaskState.DONE
    assert not rig.engine._watching._watchers


async def test_watch_fails_when_the_task_is_unknown(rig: Rig) -> None:
    with pytest.raises(UnknownTaskError):
        await anext(rig.engine.watch(TaskId("nobody")))


async def test_cancel_is_on_disk_when_it_is_answered(rig: Rig) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    await lane.leased()
    view = await rig.engine.cancel(task.task_id)
    stored = await rig.store.task(task.task_id)
    assert stored is not None
    assert view.task.state is stored.state is TaskState.CANCELLED


async def test_files_and_task_are_gone_when_it_is_deleted(rig: Rig) -> None:
    lane = await rig.lane()
    task = await rig.submit()
    leased = await lane.leased()
    await obstore.put_async(rig.objects, f"results/{task.task_id}/1/video.mp4", b"v")
    await lane.finish(leased)
    await settle()
    await rig.engine.delete(task.task_id)
    await rig.engine._sweeper.idle()
    assert await rig.engine.task(task.task_id) is None
    assert await obstore.list(rig.objects, "results/").collect_async() == []


async def test_older_stream_ends_when_the_lane_opens_a_newer_one(rig: Rig) -> None:
    old = await rig.lane()
    await old.wish()
    new = await rig.lane()
    with pytest.raises(SessionEndedError):
        await old.session.next_wish()
    assert (await new.wish()).controller_epoch == 1


async def test_report_is_refused_when_it_names_an_unknown_model(rig: Rig) -> None:
    with pytest.raises(InvalidReportError, match="models"):
        await rig.lane(model="dream")


async def test_running_task_goes_on_when_admission_is_started_again(rig: Rig) -> None:
    lane = await rig.lane()
    accepted = await rig.submit()
    task = await lane.leased()
    await rig.engine.stop()
    rig.engine = Engine(store=rig.store, clock=rig.clock, objects=rig.objects)
    await rig.engine.start()
    again = LaneDouble(rig.engine.open_lane(), "lane-anisora", "anisora")
    await again.report(Work(task_id=task.task_id, attempt=1, stage=Stage.INFERENCE, progress=50))
    wish = await again.wish()
    assert wish.controller_epoch == 2
    assert wish.wish.lease is not None
    assert (wish.wish.lease.task_id, wish.wish.lease.attempt) == (accepted.task_id, 1)
    await again.finish(task)
    await settle()
    page = await rig.engine.page(TaskQuery(states=frozenset({TaskState.DONE})))
    assert page.total == 1


async def test_engine_fails_when_another_admission_rules(rig: Rig) -> None:
    lane = await rig.lane()
    await lane.wish()
    await settle()
    await rig.store.claim_epoch()
    call = rig.submit()
    with pytest.raises(StaleEpochError):
        await asyncio.wait_for(rig.engine.wait_failed(), PATIENCE_S)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_files_stay_when_a_lane_repeats_its_result_to_a_restarted_admission(rig: Rig) -> None:
    # The core forgets ended tasks: the repeated outcome looked like a zombie's, and the committed files were removed.
    lane = await rig.lane()
    accepted = await rig.submit()
    task = await lane.leased()
    await obstore.put_async(rig.objects, f"results/{task.task_id}/1/video.mp4", b"v")
    await lane.finish(task)
    await settle()
    await rig.engine.stop()
    rig.engine = Engine(store=rig.store, clock=rig.clock, objects=rig.objects)
    await rig.engine.start()
    again = LaneDouble(rig.engine.open_lane(), "lane-anisora", "anisora")
    await again.finish(task)
    wish = await again.wish()
    assert wish.wish.acknowledged is not None
    await rig.engine._sweeper.idle()
    kept = await obstore.list(rig.objects, "results/").collect_async()
    assert [item["path"] for item in kept] == [f"results/{accepted.task_id}/1/video.mp4"]
    assert "attempt_refused" not in [event.event_type for event in await rig.engine.task_events(accepted.task_id)]


async def test_nothing_is_stored_of_refused_tasks_when_one_batch_held_several(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.gate.clear()
    calls = [rig.submit(prompt=f"boat {number}") for number in range(6)]
    await settle()
    rig.store.fail_writes = True
    rig.store.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
    rig.store.fail_writes = False
    await rig.submit()
    assert len(await rig.store.unfinished()) == 1


async def test_journal_stays_small_when_the_store_is_away_and_lanes_go_on_reporting(rig: Rig) -> None:
    lane = await rig.lane()
    await rig.submit()
    task = await lane.leased()
    rig.store.gate.clear()
    cancel = asyncio.create_task(rig.engine.cancel(task.task_id))
    await settle()
    for _ in range(2000):
        await lane.report(Work(task_id=task.task_id, attempt=1, stage=Stage.INFERENCE, progress=1))
    assert sum(len(entry.commands) for entry in rig.engine._journal._pending.entries) < 600
    rig.store.gate.set()
    await cancel


async def test_older_process_of_a_lane_is_sent_away_when_a_newer_one_took_over(rig: Rig) -> None:
    old = await rig.lane()
    report = Report(
        spec=old.spec,
        boot_id="boot-2",
        session=(newer := rig.engine.open_lane()).number,
        seen_sequence=0,
        warm=True,
        healthy=True,
        draining=False,
        resident_model=None,
    )
    await newer.report(report)
    with pytest.raises(SessionEndedError):
        await rig.lane()
    await newer.report(replace(report, seen_sequence=1))


async def test_admission_that_was_replaced_ends_although_it_has_nothing_to_write(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reign, "_LOOK_S", 0.0)
    await rig.restart()
    await rig.store.claim_epoch()
    with pytest.raises(StaleEpochError):
        await asyncio.wait_for(rig.engine.wait_failed(), PATIENCE_S)
