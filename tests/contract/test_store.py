"""What every store promises. Each test runs on each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admission.core.lanes import KnownLane, ModelPolicy
from admission.core.learned import Learned, Place, Rate
from admission.core.tasks import Event, LaneId, LaneMode, Model, Task, TaskId, TaskState
from admission.store.port import Batch, EventQuery, Retention, StaleEpochError, Store, StoreUnavailableError, TaskPage, TaskQuery
from tests.contract.stored import events, fill, ids
from tests.harness import tasks as make
from tests.harness.tasks import START, at, make_event, make_known_lane, make_task

# The store lives through all examples of a test on purpose; ids may come again.
examples = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# Round trips


@examples
@given(task=make.tasks())
async def test_every_field_comes_back_when_a_task_is_read(store: Store, task: Task) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(deleted=[task.task_id]))
    await store.write(epoch, Batch(tasks=[task]))
    assert await store.task(task.task_id) == task


@examples
@given(data=st.data())
async def test_every_field_comes_back_when_events_are_read(store: Store, data: st.DataObject) -> None:
    task_id = data.draw(make.task_ids())
    written = data.draw(st.lists(make.events(task_id), max_size=4))
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(deleted=[task_id]))
    await store.write(epoch, Batch(events=written))
    assert await events(store, task_id) == written


@examples
@given(lane=make.lanes())
async def test_every_field_comes_back_when_lanes_are_read(store: Store, lane: KnownLane) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(lanes=[lane]))
    assert lane in await store.lanes()


@examples
@given(policy=make.policies())
async def test_every_field_comes_back_when_policies_are_read(store: Store, policy: ModelPolicy) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(policies=[policy]))
    assert policy in await store.policies()


@examples
@given(learned=make.learned())
async def test_every_field_comes_back_when_what_was_learned_is_read(store: Store, learned: Learned) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(learned=[learned]))
    assert learned in await store.learned()


async def test_times_come_back_as_utc_when_they_were_given_in_another_zone(store: Store) -> None:
    local = START.replace(microsecond=1).astimezone(timezone(timedelta(hours=5, minutes=45)))
    await fill(store, make_task(created_at=local))
    found = await store.task(TaskId("task-1"))
    assert found is not None
    assert (found.created_at, found.created_at.tzinfo) == (START.replace(microsecond=1), UTC)


async def test_the_stored_task_stays_when_the_mapping_it_was_made_of_is_changed(store: Store) -> None:
    parameters: dict[str, object] = {"seed": 1}
    await fill(store, make_task(parameters=parameters))
    parameters["seed"] = 2
    found = await store.task(TaskId("task-1"))
    assert found is not None
    assert found.parameters == {"seed": 1}


async def test_nothing_is_found_when_the_id_is_unknown(store: Store) -> None:
    assert await store.task(TaskId("none")) is None
    assert await events(store, "none") == []


# Batches


async def test_what_changes_is_replaced_whole_when_a_task_is_written_again(store: Store) -> None:
    first = make_task(lane_id="lane-1", boot_id="boot-1", leased_at=START, stage_detail="step 3 of 8", attempt=1)
    epoch = await fill(store, first)
    second = make_task(state=TaskState.CANCELLED, queued_at=None, updated_at=at(1))
    await store.write(epoch, Batch(tasks=[second]))
    assert await store.task(TaskId("task-1")) == second
    assert (await store.page(TaskQuery())).total == 1


async def test_what_a_task_was_accepted_with_stays_when_it_is_written_again(store: Store) -> None:
    first = make_task(request_id="key", fingerprint="print")
    epoch = await fill(store, first)
    other = make_task(
        model=Model("phr00t"), owner="else", request_id="other", fingerprint="", mode="i2v", parameters={}, tokens=0, created_at=at(9)
    )
    await store.write(epoch, Batch(tasks=[replace(other, attempt=1)]))
    assert await store.task(TaskId("task-1")) == replace(first, attempt=1)
    assert ids(await store.page(TaskQuery(model="anisora"))) == ["task-1"]


async def test_the_last_one_counts_when_a_batch_holds_a_task_twice(store: Store) -> None:
    last = make_task(state=TaskState.LEASED, attempt=1)
    await fill(store, make_task(), last)
    assert await store.task(TaskId("task-1")) == last


async def test_a_lane_is_replaced_when_it_is_written_again(store: Store) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(lanes=[make_known_lane("b"), make_known_lane("a")]))
    pool = make_known_lane("b", mode=LaneMode.DEGRADED_SHARED, models=(Model("anisora"), Model("phr00t")))
    await store.write(epoch, Batch(lanes=[pool]))
    assert await store.lanes() == (make_known_lane("a"), pool)


async def test_what_was_learned_is_replaced_when_it_is_written_again(store: Store) -> None:
    epoch = await store.claim_epoch()
    here, there = Place("A10G", Model("anisora"), "streamed"), Place("", Model("anisora"), "")
    rate = Rate(seconds_per_token=0.1, largest_tokens=10, largest_seconds_per_token=0.2)
    await store.write(epoch, Batch(learned=[Learned(place=here, excesses={"denoise": {30: 5}}), Learned(place=there)]))
    await store.write(epoch, Batch(learned=[Learned(place=here, excesses={"decode": {31: 7, 33: 0}}, rate=rate)]))
    # By place.
    assert await store.learned() == (Learned(place=there), Learned(place=here, excesses={"decode": {31: 7, 33: 0}}, rate=rate))


async def test_nothing_is_learned_when_the_epoch_is_over(store: Store) -> None:
    stale = await store.claim_epoch()
    await store.claim_epoch()
    with pytest.raises(StaleEpochError):
        await store.write(stale, Batch(learned=[Learned(place=Place("", Model("anisora"), ""))]))
    assert await store.learned() == ()


async def test_a_lane_is_gone_and_its_events_stay_when_it_is_forgotten(store: Store) -> None:
    epoch = await store.claim_epoch()
    event = make_event("lane_ready", task_id=None, lane_id=LaneId("a"))
    await store.write(epoch, Batch(lanes=[make_known_lane("b"), make_known_lane("a")], events=[event]))
    await store.write(epoch, Batch(forgotten_lanes=[LaneId("a"), LaneId("never-there")]))
    assert await store.lanes() == (make_known_lane("b"),)
    assert await events(store, None) == [event]


async def test_a_lane_is_gone_when_one_batch_writes_and_forgets_it(store: Store) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(lanes=[make_known_lane("a")], forgotten_lanes=[LaneId("a")]))
    assert await store.lanes() == ()


async def test_a_policy_is_replaced_when_it_is_written_again(store: Store) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(policies=[ModelPolicy(model=Model("b"), is_fallback_manual=True), ModelPolicy(model=Model("a"))]))
    denied = ModelPolicy(model=Model("b"), quota_denied_until=at(60), quota_reason="no cards left")
    await store.write(epoch, Batch(policies=[denied]))
    assert await store.policies() == (ModelPolicy(model=Model("a")), denied)


async def test_nothing_changes_when_a_batch_is_empty(store: Store) -> None:
    epoch = await fill(store, make_task())
    await store.write(epoch, Batch())
    assert (await store.page(TaskQuery())).total == 1


@pytest.mark.parametrize(
    "wrong",
    [
        Batch(tasks=[make_task("task-2"), make_task("task-3", state=TaskState.HELD)]),
        Batch(tasks=[make_task("task-2"), make_task("task-3", parameters={"image": b"bytes"})]),
        Batch(tasks=[make_task("task-2"), make_task("task-3", parameters={"strength": float("nan")})]),
        Batch(tasks=[make_task("task-2")], events=[make_event(task_id=TaskId("task-2"), created_at=START.replace(tzinfo=None))]),
    ],
    ids=["held", "bytes", "not-a-number", "naive-time"],
)
async def test_nothing_of_a_batch_is_stored_when_a_part_of_it_is_wrong(store: Store, wrong: Batch) -> None:
    epoch = await fill(store, make_task())
    with pytest.raises((ValueError, TypeError)):
        await store.write(epoch, replace(wrong, lanes=[make_known_lane()], deleted=[TaskId("task-1")]))
    assert ids(await store.page(TaskQuery())) == ["task-1"]
    assert await store.lanes() == ()


async def test_a_task_and_its_events_are_gone_when_it_is_deleted(store: Store) -> None:
    epoch = await fill(store, make_task("task-1"), make_task("task-2"))
    kept = make_event(task_id=TaskId("task-2"))
    await store.write(epoch, Batch(events=[make_event(), kept]))
    await store.write(epoch, Batch(deleted=[TaskId("task-1"), TaskId("never-there")]))
    assert await store.task(TaskId("task-1")) is None
    assert await events(store) == []
    assert ids(await store.page(TaskQuery())) == ["task-2"]
    assert await events(store, "task-2") == [kept]


async def test_a_task_stays_away_when_one_batch_writes_and_deletes_it(store: Store) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(tasks=[make_task()], events=[make_event()], deleted=[TaskId("task-1")]))
    assert await store.task(TaskId("task-1")) is None
    assert await events(store) == []


async def test_an_event_is_kept_when_it_comes_after_its_task_was_deleted(store: Store) -> None:
    # Cleanup of a cancelled attempt may end after the gallery entry was deleted; its memory record must not be lost.
    epoch = await fill(store, make_task())
    await store.write(epoch, Batch(deleted=[TaskId("task-1")]))
    await store.write(epoch, Batch(events=[make_event("memory_record")]))
    assert await events(store) == [make_event("memory_record")]


async def test_events_keep_the_order_of_writing_when_their_times_are_equal_or_go_back(store: Store) -> None:
    epoch = await store.claim_epoch()
    written = [make_event(value=str(number), created_at=at(second)) for number, second in enumerate((5, 5, 3, 5, 1, 9))]
    await store.write(epoch, Batch(events=written[:4]))
    await store.write(epoch, Batch(events=written[4:]))
    assert await events(store) == written


async def test_an_event_of_a_lane_is_stored_when_it_names_no_task(store: Store) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(events=[Event(event_type="lane_ready", created_at=START)]))
    assert await events(store) == []


# Epochs


async def test_epochs_count_from_one_when_they_are_claimed(store: Store) -> None:
    assert [await store.claim_epoch() for _ in range(3)] == [1, 2, 3]


async def test_a_write_is_refused_whole_when_a_newer_epoch_was_claimed(store: Store) -> None:
    old = await fill(store, make_task())
    new = await store.claim_epoch()
    changes = Batch(tasks=[make_task(attempt=9)], lanes=[make_known_lane()], events=[make_event()])
    with pytest.raises(StaleEpochError):
        await store.write(old, changes)
    assert await store.task(TaskId("task-1")) == make_task()
    assert (await store.lanes(), await events(store)) == ((), [])
    await store.write(new, changes)
    assert await store.task(TaskId("task-1")) == make_task(attempt=9)


async def test_a_write_is_refused_when_its_epoch_was_never_claimed(store: Store) -> None:
    with pytest.raises(StaleEpochError):
        await store.write(1, Batch(tasks=[make_task()]))
    assert (await store.page(TaskQuery())).total == 0


async def test_each_epoch_is_given_once_when_many_claim_at_the_same_time(store: Store) -> None:
    claimed = await asyncio.gather(*(store.claim_epoch() for _ in range(20)))
    assert sorted(claimed) == list(range(1, 21))


# Concurrency


async def test_a_read_sees_a_whole_batch_when_it_runs_beside_writes(store: Store) -> None:
    epoch = await fill(store, make_task("a"), make_task("b"))
    torn: list[TaskPage] = []

    async def write() -> None:
        for attempt in range(1, 31):
            await store.write(epoch, Batch(tasks=[make_task("a", attempt=attempt), make_task("b", attempt=attempt)]))

    async def read() -> None:
        for _ in range(30):
            page = await store.page(TaskQuery())
            if len({task.attempt for task in page.tasks}) != 1 or page.total != 2:
                torn.append(page)

    await asyncio.gather(write(), read(), read())
    assert torn == []


async def test_a_write_is_seen_by_every_read_when_it_has_returned(store: Store) -> None:
    epoch = await store.claim_epoch()
    for attempt in range(20):
        await store.write(epoch, Batch(tasks=[make_task(attempt=attempt)]))
        assert await asyncio.gather(*(store.task(TaskId("task-1")) for _ in range(3))) == [make_task(attempt=attempt)] * 3


# Life


CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "claim_epoch": lambda store: store.claim_epoch(),
    "write": lambda store: store.write(1, Batch()),
    "unfinished": lambda store: store.unfinished(),
    "lanes": lambda store: store.lanes(),
    "task": lambda store: store.task(TaskId("task-1")),
    "page": lambda store: store.page(TaskQuery()),
    "learned": lambda store: store.learned(),
    "policies": lambda store: store.policies(),
    "task_of_request": lambda store: store.task_of_request("session-1", "key"),
    "events": lambda store: store.events(EventQuery()),
    "last_sequence": lambda store: store.last_sequence(),
    "prune": lambda store: store.prune(1, Retention(tasks_before={})),
    "unused_inputs": lambda store: store.unused_inputs(["inputs/a"]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_every_call_is_refused_when_the_store_is_closed(store: Store, call: Callable[[Store], Awaitable[object]]) -> None:
    await store.claim_epoch()
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await call(store)


async def test_nothing_happens_when_a_store_is_opened_or_closed_twice(store: Store) -> None:
    await fill(store, make_task())
    await store.open()
    assert await store.task(TaskId("task-1")) == make_task()
    await store.close()
    await store.close()


async def test_everything_is_there_when_the_store_is_opened_again(store: Store) -> None:
    epoch = await fill(store, make_task())
    await store.write(epoch, Batch(lanes=[make_known_lane()], events=[make_event()]))
    await store.close()
    await store.open()
    assert await store.unfinished() == (make_task(),)
    assert await store.lanes() == (make_known_lane(),)
    assert await events(store) == [make_event()]
    assert await store.claim_epoch() == epoch + 1


async def test_the_newest_epoch_is_read_when_it_was_claimed(store: Store) -> None:
    before = await store.epoch()
    claimed = await store.claim_epoch()
    assert claimed == before + 1
    assert await store.epoch() == claimed
