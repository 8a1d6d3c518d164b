"""What every store promises of lists: which tasks, in which order, in how many pages."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admission.core.tasks import Model, Task, TaskId, TaskState
from admission.store.port import Batch, Retention, Store, TaskPage, TaskQuery, TaskSort
from tests.contract.stored import fill, ids
from tests.harness import tasks as make
from tests.harness.tasks import at, make_task

# Unfinished


async def test_unfinished_are_the_queued_and_leased_when_others_ended(store: Store) -> None:
    durable = [state for state in TaskState if state is not TaskState.HELD]
    await fill(store, *(make_task(state.value, state=state) for state in durable))
    assert {task.state for task in await store.unfinished()} == {TaskState.QUEUED, TaskState.LEASED}


async def test_unfinished_begin_with_the_oldest_acceptance_when_ids_and_times_of_creation_differ(store: Store) -> None:
    await fill(
        store,
        make_task("a", queued_at=at(3), created_at=at(0)),
        make_task("b", queued_at=at(1), created_at=at(2)),
        make_task("c", queued_at=at(2), created_at=at(1), state=TaskState.LEASED),
        # Microseconds count, and a whole second is not longer or shorter text.
        make_task("d", queued_at=at(1) + timedelta(microseconds=1), created_at=at(1)),
        # Accepted at the same instant: the older request first, then by id.
        make_task("f", queued_at=at(3), created_at=at(1)),
        make_task("e", queued_at=at(3), created_at=at(1)),
    )
    assert [task.task_id for task in await store.unfinished()] == ["b", "d", "c", "a", "e", "f"]


# Pages


async def test_pages_hold_each_task_once_when_sort_values_are_equal(store: Store) -> None:
    names = [f"task-{number}" for number in range(7)]
    await fill(store, *(make_task(name) for name in reversed(names)))
    pages = [await store.page(TaskQuery(page=page, page_size=3)) for page in (1, 2, 3, 4)]
    assert [ids(page) for page in pages] == [names[0:3], names[3:6], names[6:], []]
    assert {page.total for page in pages} == {7}


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (TaskSort.CREATED_AT, ["c", "b", "d", "a"]),
        (TaskSort.MODEL, ["b", "d", "a", "c"]),
        (TaskSort.WIDTH, ["a", "b", "d", "c"]),
        (TaskSort.HEIGHT, ["d", "a", "b", "c"]),
    ],
)
async def test_the_largest_come_first_when_a_sort_is_asked(store: Store, sort: TaskSort, expected: list[str]) -> None:
    await fill(
        store,
        # 1024 is more than 512 though "1024" is less than "512".
        make_task("a", created_at=at(1), model=Model("anisora"), parameters={"width": 1024, "height": 512}),
        make_task("b", created_at=at(2), model=Model("phr00t"), parameters={"width": 512, "height": 512}),
        make_task("c", created_at=at(3), model=Model("anisora"), parameters={}),
        make_task("d", created_at=at(2), model=Model("phr00t"), parameters={"width": 512, "height": 1024}),
    )
    assert ids(await store.page(TaskQuery(sort=sort))) == expected


async def test_total_counts_every_match_when_model_and_states_are_asked(store: Store) -> None:
    await fill(
        store,
        make_task("a", state=TaskState.DONE, created_at=at(1)),
        make_task("b", state=TaskState.DONE, created_at=at(2)),
        make_task("c", state=TaskState.FAILED, created_at=at(3)),
        make_task("d", state=TaskState.QUEUED, created_at=at(4)),
        make_task("e", state=TaskState.DONE, created_at=at(5), model=Model("phr00t")),
    )
    done = frozenset({TaskState.DONE})
    first = await store.page(TaskQuery(model="anisora", states=done, page_size=1))
    assert (ids(first), first.total) == (["b"], 2)
    ended = await store.page(TaskQuery(states=done | {TaskState.FAILED}))
    assert (ids(ended), ended.total) == (["e", "c", "b", "a"], 4)
    assert ids(await store.page(TaskQuery(model="phr00t"))) == ["e"]
    assert await store.page(TaskQuery(model="unknown")) == TaskPage(tasks=(), total=0)


async def test_only_the_owners_tasks_are_listed_and_counted_when_an_owner_is_asked(store: Store) -> None:
    await fill(
        store,
        make_task("a", owner="session:1", state=TaskState.DONE, created_at=at(1), model=Model("phr00t")),
        make_task("b", owner="session:1", state=TaskState.DONE, created_at=at(2)),
        make_task("c", owner="session:1", state=TaskState.CANCELLED, created_at=at(3)),
        make_task("d", owner="session:1", state=TaskState.QUEUED, created_at=at(4)),
        make_task("e", owner="session:2", state=TaskState.DONE, created_at=at(5)),
        make_task("f", owner="session:2", state=TaskState.LEASED, created_at=at(6)),
        # Owners are compared as they are: neither the start of one nor other case is the same.
        make_task("g", owner="session:11", state=TaskState.DONE, created_at=at(7)),
        make_task("h", owner="Session:1", state=TaskState.DONE, created_at=at(8)),
        make_task("i", owner="", state=TaskState.DONE, created_at=at(9)),
    )
    done = frozenset({TaskState.DONE})
    first = await store.page(TaskQuery(owner="session:1", states=done, page_size=1))
    assert (ids(first), first.total) == (["b"], 2)
    whole = await store.page(TaskQuery(owner="session:1"))
    assert (ids(whole), whole.total) == (["d", "c", "b", "a"], 4)
    assert ids(await store.page(TaskQuery(owner="session:1", model="phr00t"))) == ["a"]
    assert ids(await store.page(TaskQuery(owner="session:2", states=frozenset({TaskState.LEASED})))) == ["f"]
    assert ids(await store.page(TaskQuery(owner=""))) == ["i"]
    assert await store.page(TaskQuery(owner="session:3")) == TaskPage(tasks=(), total=0)


async def test_an_owners_total_falls_when_one_of_its_tasks_is_deleted_or_too_old(store: Store) -> None:
    names = ("a", "b", "c")
    epoch = await fill(store, *(make_task(name, owner="session:1", state=TaskState.DONE, updated_at=at(ord(name))) for name in names))
    await store.write(epoch, Batch(deleted=[TaskId("b")]))
    await store.prune(epoch, Retention(tasks_before={TaskState.DONE: at(ord("b"))}))
    page = await store.page(TaskQuery(owner="session:1"))
    assert (ids(page), page.total) == (["c"], 1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    new=st.lists(make.tasks(), max_size=6, unique_by=lambda task: task.task_id), sort=st.sampled_from(TaskSort), page_size=st.integers(1, 5)
)
async def test_pages_together_are_all_tasks_in_order_when_tasks_are_any(
    store: Store, new: list[Task], sort: TaskSort, page_size: int
) -> None:
    everything = await store.page(TaskQuery(page_size=10_000))
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(deleted=[task.task_id for task in everything.tasks]))
    await store.write(epoch, Batch(tasks=new))
    expected = sorted(new, key=lambda task: task.task_id)
    expected.sort(key=lambda task: sort_value(task, sort), reverse=True)
    found: list[Task] = []
    for page in range(1, len(new) // page_size + 2):
        found.extend((await store.page(TaskQuery(page=page, page_size=page_size, sort=sort))).tasks)
    assert found == expected


def sort_value(task: Task, sort: TaskSort) -> datetime | str | int:
    """What the task is sorted by."""
    match sort:
        case TaskSort.CREATED_AT:
            return task.created_at
        case TaskSort.MODEL:
            return task.model
        case TaskSort.WIDTH | TaskSort.HEIGHT:
            return int(str(task.parameters[sort.value]))


@pytest.mark.parametrize("query", [TaskQuery(page=0), TaskQuery(page_size=0)])
async def test_a_page_is_refused_when_it_cannot_exist(store: Store, query: TaskQuery) -> None:
    with pytest.raises(ValueError, match="count from 1"):
        await store.page(query)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_pages_hold_what_picking_by_hand_gives_when_filters_are_any(store: Store, data: st.DataObject) -> None:
    everything = await store.page(TaskQuery(page_size=10_000))
    states = [state for state in TaskState if state is not TaskState.HELD]
    sizes = st.sampled_from([256, 512, 1024])
    new = [
        make_task(
            f"task-{number}",
            state=data.draw(st.sampled_from(states)),
            model=data.draw(st.sampled_from([Model("anisora"), Model("phr00t")])),
            owner=data.draw(st.sampled_from(["key", "session:1"])),
            parameters={"width": data.draw(sizes), "height": data.draw(sizes)},
            created_at=at(data.draw(st.integers(0, 3))),
        )
        for number in range(data.draw(st.integers(0, 12)))
    ]
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(deleted=[task.task_id for task in everything.tasks]))
    await store.write(epoch, Batch(tasks=new))
    sort = data.draw(st.sampled_from(TaskSort))
    model = data.draw(st.sampled_from([None, "anisora"]))
    owner = data.draw(st.sampled_from([None, "key", "session:1"]))
    wanted = data.draw(st.frozensets(st.sampled_from(states)))
    expected = sorted(new, key=lambda task: task.task_id)
    expected.sort(key=lambda task: sort_value(task, sort), reverse=True)
    expected = [
        task for task in expected if model in (None, task.model) and owner in (None, task.owner) and (not wanted or task.state in wanted)
    ]
    for number in range(1, 6):
        page = await store.page(TaskQuery(page=number, page_size=3, sort=sort, model=model, owner=owner, states=wanted))
        assert page == TaskPage(tasks=tuple(expected[3 * number - 3 : 3 * number]), total=len(expected))
