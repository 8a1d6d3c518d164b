"""What every store promises of retention: what goes, what never goes, and that the numbers of tasks stay right."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admission.core.tasks import LaneId, Model, Task, TaskId, TaskState
from admission.store.port import Batch, Pruned, Retention, StaleEpochError, Store, TaskQuery
from tests.contract.stored import events, fill
from tests.harness.tasks import at, make_event, make_task

EVERY_STATE = tuple(state for state in TaskState if state is not TaskState.HELD)
OLD: dict[TaskState, datetime] = {state: at(100) for state in EVERY_STATE}


def done(task_id: str, second: float, **changes: object) -> Task:
    """A finished task, last changed at the second."""
    return make_task(task_id, **({"state": TaskState.DONE, "updated_at": at(second)} | changes))


# Tasks


async def test_old_ended_tasks_are_gone_with_all_that_is_theirs_when_pruned(store: Store) -> None:
    old = done("old", 1, request_id="key", parameters={"image": {"key": "inputs/a"}})
    epoch = await fill(store, old, done("new", 100))
    await store.write(epoch, Batch(events=[make_event(task_id=TaskId("old")), make_event(task_id=TaskId("new"))]))
    assert await store.prune(epoch, Retention(tasks_before={TaskState.DONE: at(100)})) == Pruned(task_ids=(TaskId("old"),))
    assert await store.task(TaskId("old")) is None
    assert await store.task_of_request("session-1", "key") is None
    assert await store.unused_inputs(["inputs/a"]) == {"inputs/a"}
    assert (len(await events(store, "old")), len(await events(store, "new"))) == (0, 1)
    assert (await store.page(TaskQuery())).total == 1


async def test_each_state_has_its_own_age_when_pruned(store: Store) -> None:
    epoch = await fill(store, done("done", 5), done("failed", 5, state=TaskState.FAILED), done("cancelled", 5, state=TaskState.CANCELLED))
    pruned = await store.prune(epoch, Retention(tasks_before={TaskState.DONE: at(5), TaskState.FAILED: at(6)}))
    assert pruned.task_ids == ("failed",)


async def test_what_is_unfinished_or_withdrawn_stays_when_it_is_old(store: Store) -> None:
    epoch = await fill(
        store,
        *(make_task(state.value, state=state) for state in EVERY_STATE),
        done("withdrawn", 0, state=TaskState.CANCELLED, is_withdrawn=True),
    )
    pruned = await store.prune(epoch, Retention(tasks_before=OLD))
    assert set(pruned.task_ids) == {"done", "failed", "cancelled"}
    assert {task.task_id for task in await store.unfinished()} == {"queued", "leased", "withdrawn"}
    assert (await store.prune(epoch, Retention(tasks_before=OLD))) == Pruned()


async def test_the_oldest_go_first_and_no_more_than_the_limit_when_there_are_many(store: Store) -> None:
    states = (TaskState.DONE, TaskState.FAILED)
    epoch = await fill(store, *(done(f"task-{number}", 9 - number, state=states[number % 2]) for number in range(5)))
    retention = Retention(tasks_before=OLD, limit=2)
    pruned = [(await store.prune(epoch, retention)).task_ids for _ in range(4)]
    assert pruned == [("task-4", "task-3"), ("task-2", "task-1"), ("task-0",), ()]


async def test_nothing_is_removed_when_a_newer_epoch_was_claimed(store: Store) -> None:
    old = await fill(store, done("old", 0))
    await store.write(old, Batch(events=[make_event(task_id=None)]))
    await store.claim_epoch()
    with pytest.raises(StaleEpochError):
        await store.prune(old, Retention(tasks_before=OLD, events_before=at(100)))
    assert (await store.page(TaskQuery())).total == 1
    assert len(await events(store, None)) == 1


# Events


async def test_old_events_without_a_stored_task_go_when_pruned(store: Store) -> None:
    epoch = await fill(store, make_task("kept"))
    await store.write(
        epoch,
        Batch(
            events=[
                make_event("a", task_id=None, lane_id=LaneId("lane"), created_at=at(99)),
                make_event("b", task_id=TaskId("never-stored"), created_at=at(99)),
                make_event("c", task_id=TaskId("kept"), created_at=at(99)),
                make_event("d", task_id=None, created_at=at(100)),
            ]
        ),
    )
    assert await store.prune(epoch, Retention(tasks_before={}, events_before=at(100))) == Pruned(events=2)
    assert [event.event_type for event in await events(store, None)] == ["c", "d"]
    assert await store.prune(epoch, Retention(tasks_before={}, events_before=at(100))) == Pruned()


async def test_an_event_stays_when_its_task_was_stored_after_it(store: Store) -> None:
    epoch = await store.claim_epoch()
    early = make_event("fallback_activated", task_id=TaskId("task-1"))
    loose = [make_event(task_id=None, created_at=at(number)) for number in range(1, 4)]
    await store.write(epoch, Batch(events=[early, *loose]))
    await store.write(epoch, Batch(tasks=[done("task-1", 500)]))
    retention = Retention(tasks_before={}, events_before=at(100), limit=2)
    assert [(await store.prune(epoch, retention)).events for _ in range(3)] == [2, 1, 0]
    assert await events(store, None) == [early]
    await store.write(epoch, Batch(deleted=[TaskId("task-1")]))
    assert await events(store, None) == []


async def test_the_record_of_a_deleted_task_goes_when_it_is_old(store: Store) -> None:
    epoch = await fill(store, make_task())
    await store.write(epoch, Batch(deleted=[TaskId("task-1")]))
    await store.write(epoch, Batch(events=[make_event("memory_record")]))
    assert (await store.prune(epoch, Retention(tasks_before={}, events_before=at(1)))).events == 1
    assert await events(store) == []


# Numbers of tasks


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_totals_are_what_counting_gives_when_batches_and_prunings_are_any(store: Store, data: st.DataObject) -> None:
    models = {f"task-{number}": ("anisora", "phr00t")[number % 2] for number in range(8)}
    ids = st.sampled_from(sorted(models)).map(TaskId)
    # Named by chance, so that a batch writes, writes again and deletes the same ones.
    states = st.tuples(ids, st.sampled_from(EVERY_STATE), st.booleans(), st.integers(0, 200))
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(deleted=[TaskId(task_id) for task_id in models]))
    kept: dict[str, Task] = {}
    for _ in range(data.draw(st.integers(1, 4))):
        tasks = [
            make_task(task_id, model=Model(models[task_id]), state=state, is_withdrawn=withdrawn, updated_at=at(second))
            for task_id, state, withdrawn, second in data.draw(st.lists(states, max_size=8))
        ]
        deleted = data.draw(st.lists(ids, max_size=2))
        await store.write(epoch, Batch(tasks=tasks, deleted=deleted))
        kept |= {task.task_id: task for task in tasks}
        gone = set(deleted)
        if data.draw(st.booleans()):
            gone |= set((await store.prune(epoch, Retention(tasks_before=OLD, limit=2))).task_ids)
        kept = {task_id: task for task_id, task in kept.items() if task_id not in gone}
    await expect_totals(store, kept)


async def expect_totals(store: Store, kept: dict[str, Task]) -> None:
    """Compares every filter's total with counting."""
    counted = Counter((str(task.model), task.state) for task in kept.values())
    for model in (None, "anisora", "phr00t"):
        for states in (frozenset[TaskState](), *(frozenset({state}) for state in EVERY_STATE)):
            page = await store.page(TaskQuery(model=model, states=states, page_size=100))
            expected = sum(count for (of, state), count in counted.items() if model in (None, of) and (not states or state in states))
            assert (page.total, len(page.tasks)) == (expected, expected)
