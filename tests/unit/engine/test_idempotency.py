"""One task for one idempotency key, whoever asks how often and whenever callers leave."""

from __future__ import annotations

import asyncio

import pytest

from admission.core.tasks import LaneMode, TaskState
from admission.engine_types import OverloadedError, RequestReusedError
from admission.store.port import StoreUnavailableError
from tests.harness.engine import Rig, settle


async def test_same_task_comes_back_when_the_key_is_sent_again(rig: Rig) -> None:
    await rig.lane()
    first = await rig.submit_keyed("key")
    again = await rig.submit_keyed("key")
    assert (first.is_duplicate, again.is_duplicate) == (False, True)
    assert again.task.task_id == first.task.task_id
    assert len(await rig.store.unfinished()) == 1


async def test_same_task_comes_back_when_no_seed_was_asked_for(rig: Rig) -> None:
    await rig.lane()
    first = await rig.submit_keyed("key", seed=-1)
    assert (await rig.submit_keyed("key", seed=-1)).task.task_id == first.task.task_id


async def test_key_belongs_to_its_owner(rig: Rig) -> None:
    await rig.lane()
    first = await rig.submit_keyed("key", owner="a")
    other = await rig.submit_keyed("key", owner="b", prompt="another")
    assert first.task.task_id != other.task.task_id


async def test_another_request_under_the_same_key_is_refused_and_stores_nothing(rig: Rig) -> None:
    await rig.lane()
    await rig.submit_keyed("key")
    with pytest.raises(RequestReusedError):
        await rig.submit_keyed("key", prompt="another")
    assert len(await rig.store.unfinished()) == 1


async def test_duplicate_of_a_held_request_joins_it(rig: Rig) -> None:
    first, second = rig.submit_keyed("key"), rig.submit_keyed("key")
    await settle()
    assert rig.engine.snapshot().degraded.depth == 1
    await rig.lane()
    answers = await asyncio.gather(first, second)
    assert {answer.task.task_id for answer in answers} == {answers[0].task.task_id}
    assert [answer.is_duplicate for answer in answers] == [False, True]
    assert answers[0].task.lane_mode in (None, LaneMode.DEDICATED)


async def test_another_request_under_the_key_of_a_held_one_is_refused(rig: Rig) -> None:
    first = rig.submit_keyed("key")
    await settle()
    with pytest.raises(RequestReusedError):
        await rig.submit_keyed("key", prompt="another")
    assert not first.done()
    first.cancel()


async def test_held_request_stays_while_one_of_its_callers_waits(rig: Rig) -> None:
    first, second = rig.submit_keyed("key"), rig.submit_keyed("key")
    await settle()
    first.cancel()
    await settle()
    assert rig.engine.snapshot().degraded.depth == 1
    await rig.lane()
    assert (await second).task.state is not TaskState.CANCELLED


async def test_place_is_free_when_the_last_caller_of_a_held_request_left(rig: Rig) -> None:
    calls = [rig.submit_keyed("key"), rig.submit_keyed("key")]
    await settle()
    for call in calls:
        call.cancel()
    await settle()
    assert rig.engine.snapshot().degraded.depth == 0
    again = rig.submit_keyed("key", prompt="another")
    await settle()
    assert rig.engine.snapshot().degraded.depth == 1, "nothing was accepted, so the key is free"
    again.cancel()


async def test_refusal_is_not_remembered(rig: Rig) -> None:
    held = [rig.submit_keyed(f"key-{index}") for index in range(25)]
    await settle()
    with pytest.raises(OverloadedError):
        await rig.submit_keyed("late")
    held[0].cancel()
    await settle()
    late = rig.submit_keyed("late")
    await settle()
    assert not late.done()
    for call in (*held, late):
        call.cancel()


async def test_accepted_task_goes_on_when_its_caller_left_before_the_reply_and_can_return(rig: Rig) -> None:
    rig.store.gate.clear()
    await rig.lane()
    call = rig.submit_keyed("key")
    await settle()
    call.cancel()
    await settle()
    again = rig.submit_keyed("key")
    await settle()
    rig.store.gate.set()
    accepted = await again
    assert accepted.is_duplicate
    assert [task.task_id for task in await rig.store.unfinished()] == [accepted.task.task_id]


async def test_accepted_task_is_cancelled_when_its_caller_left_and_said_it_would_not_return(rig: Rig) -> None:
    lane = await rig.lane()
    await rig.submit()
    await lane.leased()
    rig.store.gate.clear()
    call = rig.submit_keyed("key", abandon=True)
    await settle()
    call.cancel()
    await settle()
    rig.store.gate.set()
    await settle()
    await rig.engine._journal.flushed()
    kept = await rig.store.task_of_request("owner", "key")
    assert kept is not None
    assert kept.state is TaskState.CANCELLED


async def test_key_works_again_when_the_store_refused_the_acceptance(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await rig.submit_keyed("key")
    rig.store.fail_writes = False
    assert not (await rig.submit_keyed("key")).is_duplicate


async def test_key_is_free_when_its_task_was_deleted(rig: Rig) -> None:
    await rig.lane()
    first = await rig.submit_keyed("key")
    await rig.engine.delete(first.task.task_id)
    assert (await rig.submit_keyed("key", prompt="another")).task.task_id != first.task.task_id


async def test_key_outlives_a_restart_of_admission(rig: Rig) -> None:
    await rig.lane()
    first = await rig.submit_keyed("key")
    await rig.restart()
    assert (await rig.submit_keyed("key")).task.task_id == first.task.task_id


async def test_key_stays_taken_until_its_abandoned_acceptance_is_on_disk(rig: Rig) -> None:
    # The acceptance and its cancellation were on their way to the disk when the key came again: a second task under it broke the store.
    lane = await rig.lane()
    await rig.submit()
    await lane.leased()
    rig.store.gate.clear()
    call = rig.submit_keyed("key", abandon=True)
    await settle()
    call.cancel()
    await settle()
    again = rig.submit_keyed("key", abandon=True)
    await settle()
    rig.store.gate.set()
    assert (await again).is_duplicate
    assert not (await rig.submit_keyed("other")).is_duplicate


async def test_caller_that_wrongly_says_its_key_is_new_is_sent_away_and_nothing_breaks(rig: Rig) -> None:
    await rig.lane()
    first = await rig.submit_keyed("key")
    with pytest.raises(StoreUnavailableError):
        await rig.submit_keyed("key", abandon=True)
    assert (await rig.submit_keyed("key")).task.task_id == first.task.task_id
    assert len(await rig.store.unfinished()) == 1
