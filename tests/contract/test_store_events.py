"""What every store promises of events: their numbers, their pages and their filters."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admission.core.tasks import Event, LaneId, TaskId
from admission.store.port import Batch, EventPage, EventQuery, Store
from tests.contract.stored import events, unnumbered
from tests.harness.tasks import make_event, make_task

TYPES = ("accepted", "lane_lost", "memory_record")


def sequences(page: EventPage) -> list[int]:
    """The numbers on a page."""
    return [event.sequence for event in page.events]


async def write(store: Store, *written: Event) -> None:
    """Stores the events under a fresh epoch."""
    await store.write(await store.claim_epoch(), Batch(events=written))


async def test_numbers_rise_in_the_order_of_writing_when_events_are_written(store: Store) -> None:
    await write(store, make_event("a"), make_event("b"))
    await write(store, make_event("c"))
    page = await store.events(EventQuery())
    assert [event.event_type for event in page.events] == ["a", "b", "c"]
    assert sequences(page) == sorted(set(sequences(page)))
    assert min(sequences(page)) > 0
    assert await store.last_sequence() == page.last_sequence == page.events[-1].sequence


async def test_the_last_sequence_is_zero_when_there_was_never_an_event(store: Store) -> None:
    assert await store.last_sequence() == 0
    assert await store.events(EventQuery()) == EventPage(events=(), last_sequence=0)


async def test_no_number_is_given_twice_when_the_newest_events_are_deleted(store: Store) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(tasks=[make_task()], events=[make_event("a"), make_event("b")]))
    newest = await store.last_sequence()
    await store.write(epoch, Batch(deleted=[TaskId("task-1")]))
    await store.close()
    await store.open()
    assert await store.last_sequence() == newest
    await store.write(epoch, Batch(events=[make_event("c")]))
    assert await store.last_sequence() > newest


async def test_the_number_that_an_event_brings_counts_for_nothing_when_it_is_written(store: Store) -> None:
    await write(store, make_event(sequence=77))
    assert sequences(await store.events(EventQuery())) == [1]


async def test_nothing_is_drawn_when_a_write_is_refused(store: Store) -> None:
    epoch = await store.claim_epoch()
    with pytest.raises(TypeError):
        await store.write(epoch, Batch(tasks=[make_task(parameters={"x": b""})], events=[make_event()]))
    assert await store.last_sequence() == 0


async def test_every_event_is_on_one_page_when_pages_follow_each_other(store: Store) -> None:
    written = [make_event(value=str(number)) for number in range(7)]
    await write(store, *written)
    found: list[Event] = []
    after = 0
    for length in (3, 3, 1, 0):
        page = await store.events(EventQuery(after=after, limit=3))
        assert len(page.events) == length
        found += page.events
        after = page.last_sequence
    assert unnumbered(found) == written
    assert after == await store.last_sequence()


async def test_the_search_ends_at_the_newest_event_when_a_filter_lets_nothing_pass(store: Store) -> None:
    await write(store, make_event("accepted"), make_event("lane_lost"))
    page = await store.events(EventQuery(event_types=frozenset({"memory_record"})))
    assert page == EventPage(events=(), last_sequence=2)
    assert (await store.events(EventQuery(event_types=frozenset({"accepted"}), limit=1))).last_sequence == 1


async def test_the_search_never_goes_back_when_it_starts_behind_the_newest_event(store: Store) -> None:
    await write(store, make_event())
    assert await store.events(EventQuery(after=50)) == EventPage(events=(), last_sequence=50)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (EventQuery(), "abcdef"),
        (EventQuery(after=2), "cdef"),
        (EventQuery(task_id=TaskId("t1")), "ace"),
        (EventQuery(lane_id=LaneId("l1")), "bcf"),
        (EventQuery(task_id=TaskId("t1"), lane_id=LaneId("l1")), "c"),
        (EventQuery(event_types=frozenset({"x"})), "ab"),
        (EventQuery(event_types=frozenset({"x", "z"})), "abef"),
        (EventQuery(event_types=frozenset({"x", "z"}), limit=3), "abe"),
        (EventQuery(event_types=frozenset({"x", "z"}), lane_id=LaneId("l1")), "bf"),
        (EventQuery(event_types=frozenset({"x", "y"}), task_id=TaskId("t1"), after=1), "c"),
        (EventQuery(event_types=frozenset({"unknown"})), ""),
    ],
)
async def test_only_what_every_filter_lets_pass_is_found_when_events_are_asked(store: Store, query: EventQuery, expected: str) -> None:
    one, two, first, second = TaskId("t1"), TaskId("t2"), LaneId("l1"), LaneId("l2")
    await write(
        store,
        make_event("x", value="a", task_id=one),
        make_event("x", value="b", task_id=None, lane_id=first),
        make_event("y", value="c", task_id=one, lane_id=first),
        make_event("y", value="d", task_id=two, lane_id=second),
        make_event("z", value="e", task_id=one, lane_id=second),
        make_event("z", value="f", task_id=two, lane_id=first),
    )
    assert "".join(event.value for event in (await store.events(query)).events) == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_filter_finds_what_picking_by_hand_finds_when_events_are_any(store: Store, data: st.DataObject) -> None:
    choices = st.builds(
        make_event,
        st.sampled_from(TYPES),
        task_id=st.sampled_from([None, TaskId("t1"), TaskId("t2")]),
        lane_id=st.sampled_from([None, LaneId("l1"), LaneId("l2")]),
    )
    await write(store, *data.draw(st.lists(choices, max_size=8)))
    everything = (await store.events(EventQuery(limit=10_000))).events
    query = EventQuery(
        after=max(0, len(everything) + 1 - data.draw(st.integers(0, 9))),
        limit=data.draw(st.integers(1, 5)),
        event_types=data.draw(st.frozensets(st.sampled_from(TYPES))),
        task_id=data.draw(st.sampled_from([None, TaskId("t1")])),
        lane_id=data.draw(st.sampled_from([None, LaneId("l1")])),
    )
    passing = [
        event
        for event in everything
        if event.sequence > query.after
        and (not query.event_types or event.event_type in query.event_types)
        and query.task_id in (None, event.task_id)
        and query.lane_id in (None, event.lane_id)
    ]
    assert list((await store.events(query)).events) == passing[: query.limit]


async def test_a_query_is_refused_when_it_asks_for_no_event(store: Store) -> None:
    with pytest.raises(ValueError, match="counts from 1"):
        await store.events(EventQuery(limit=0))


async def test_no_event_is_passed_over_when_a_reader_follows_many_writers(store: Store) -> None:
    epoch = await store.claim_epoch()
    found: list[int] = []

    async def follow() -> None:
        while len(found) < 60:
            page = await store.events(EventQuery(after=found[-1] if found else 0, limit=7))
            found.extend(sequences(page))

    writes = (store.write(epoch, Batch(events=[make_event(), make_event()])) for _ in range(30))
    async with asyncio.timeout(60):
        await asyncio.gather(follow(), *writes)
    assert found == list(range(1, 61))


async def test_events_without_a_task_come_back_when_all_are_asked(store: Store) -> None:
    lane = Event(event_type="lane_ready", created_at=make_event().created_at, lane_id=LaneId("l1"))
    await write(store, lane)
    assert await events(store, None) == [lane]
    assert await events(store, "task-1") == []


async def test_a_write_tells_the_number_of_the_newest_event(store: Store) -> None:
    epoch = await store.claim_epoch()
    assert await store.write(epoch, Batch(tasks=[make_task()])) == 0
    last = await store.write(epoch, Batch(events=[make_event("a"), make_event("b")]))
    assert sequences(await store.events(EventQuery())) == [last - 1, last]
    assert await store.write(epoch, Batch(lanes=[])) == last


async def test_events_of_a_task_that_goes_have_no_number_when_they_come_with_its_deletion(store: Store) -> None:
    epoch = await store.claim_epoch()
    before = await store.write(epoch, Batch(tasks=[make_task()], events=[make_event("a")]))
    events_of_it, of_none = make_event("ended"), make_event("c", task_id=None)
    last = await store.write(epoch, Batch(events=[events_of_it, of_none], deleted=[TaskId("task-1")]))
    assert last == before + 1
    assert [event.event_type for event in (await store.events(EventQuery(after=before))).events] == ["c"]
