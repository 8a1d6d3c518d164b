"""What every store promises of idempotency keys and of input images."""

from __future__ import annotations

import pytest

from admission.core.tasks import TaskId, TaskState
from admission.store.port import Batch, RequestTakenError, Store
from tests.contract.stored import events, fill
from tests.harness.tasks import make_event, make_known_lane, make_task

A, B, C = (f"inputs/{letter * 64}" for letter in "abc")


# Idempotency keys


async def test_a_task_is_found_by_its_request_when_owner_and_key_are_its_own(store: Store) -> None:
    task = make_task(request_id="key", fingerprint="print", state=TaskState.DONE)
    await fill(store, task, make_task("task-2", request_id="other"), make_task("task-3", owner="else", request_id="key"))
    assert await store.task_of_request("session-1", "key") == task
    assert await store.task_of_request("session-1", "none") is None
    assert await store.task_of_request("nobody", "key") is None


async def test_any_number_of_tasks_is_stored_when_they_have_no_key(store: Store) -> None:
    await fill(store, make_task("a"), make_task("b"))
    assert len(await store.unfinished()) == 2


@pytest.mark.parametrize("together", [True, False])
async def test_nothing_of_a_batch_is_stored_when_a_second_task_has_the_key(store: Store, together: bool) -> None:
    first = make_task("a", request_id="key")
    epoch = await fill(store, *([] if together else [first]))
    new = [first] if together else []
    batch = Batch(tasks=[*new, make_task("b", request_id="key")], events=[make_event()], lanes=[make_known_lane()])
    with pytest.raises(RequestTakenError):
        await store.write(epoch, batch)
    assert await store.task(TaskId("b")) is None
    assert (await events(store), await store.lanes(), await store.last_sequence()) == ([], (), 0)
    assert await store.task_of_request("session-1", "key") == (None if together else first)


async def test_the_key_stays_with_its_task_when_the_task_is_written_again(store: Store) -> None:
    epoch = await fill(store, make_task(request_id="key"))
    done = make_task(request_id="key", state=TaskState.DONE)
    await store.write(epoch, Batch(tasks=[done]))
    assert await store.task_of_request("session-1", "key") == done


async def test_a_key_is_free_when_its_task_is_deleted(store: Store) -> None:
    epoch = await fill(store, make_task("a", request_id="key"))
    await store.write(epoch, Batch(deleted=[TaskId("a")]))
    assert await store.task_of_request("session-1", "key") is None
    await store.write(epoch, Batch(tasks=[make_task("b", request_id="key")]))
    assert await store.task_of_request("session-1", "key") == make_task("b", request_id="key")


async def test_a_key_is_free_when_the_same_batch_deletes_its_task(store: Store) -> None:
    # One commit may hold a deletion and a new request that came right behind it.
    epoch = await fill(store, make_task("a", request_id="key"))
    await store.write(epoch, Batch(tasks=[make_task("b", request_id="key")], deleted=[TaskId("a")]))
    assert await store.task_of_request("session-1", "key") == make_task("b", request_id="key")


# Input images


async def test_the_keys_that_no_task_has_are_unused_when_images_stand_at_any_depth(store: Store) -> None:
    parameters = {"image": {"key": A}, "keyframes": [{"frame_index": 0, "image": {"key": B}}], "prompt": C, "name": {"key": "elsewhere/x"}}
    await fill(store, make_task(parameters=parameters), make_task("task-2", parameters={"image": {"key": A}}))
    assert await store.unused_inputs([A, B, C, "elsewhere/x"]) == {C, "elsewhere/x"}
    assert await store.unused_inputs([]) == frozenset()


async def test_a_key_is_unused_when_the_last_task_that_has_it_is_deleted(store: Store) -> None:
    epoch = await fill(store, make_task("a", parameters={"image": {"key": A}}), make_task("b", parameters={"image": {"key": A}}))
    await store.write(epoch, Batch(deleted=[TaskId("a")]))
    assert await store.unused_inputs([A]) == frozenset()
    await store.write(epoch, Batch(deleted=[TaskId("b")]))
    assert await store.unused_inputs([A]) == {A}


async def test_a_key_stays_used_when_its_task_moves_on(store: Store) -> None:
    task = make_task(parameters={"image": {"key": A}, "last_image": {"key": A}})
    epoch = await fill(store, task)
    for state in (TaskState.LEASED, TaskState.DONE):
        await store.write(epoch, Batch(tasks=[make_task(parameters=task.parameters, state=state)]))
    assert await store.unused_inputs([A]) == frozenset()


async def test_five_hundred_keys_are_answered_when_they_are_asked_at_once(store: Store) -> None:
    keys = [f"inputs/{number}" for number in range(500)]
    await fill(store, make_task(parameters={"image": {"key": keys[0]}}))
    assert await store.unused_inputs(keys) == set(keys[1:])
