"""How SQLite answers what the store asks: always through an index, so that a million tasks cost what a thousand cost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from admission.core.tasks import TERMINAL, LaneId, TaskId, TaskState
from admission.store.access_port import AdminChange, AdminSession, AuditEntry, Session
from admission.store.port import Batch, EventQuery, Retention, TaskQuery, TaskSort
from admission.store.sql import SqlStore
from benchmarks import store_scale
from tests.harness.tasks import at, make_event, make_known_lane, make_task

ENDED = 20_000
UNFINISHED = 100
# Small: what must be restored, and the one row of the controller.
SMALL = ("ix_tasks_unfinished", "SCAN controller", "SCAN task_counts")

# Sessions and the audit log grow with those who call.
LARGE = ("tasks", "events", "sessions", "audit")

Call = Callable[[SqlStore], Awaitable[object]]

ADMIN = AdminSession(session_id="a", token_sha256="a", created_at=at(0), last_activity_at=at(0), expires_at=at(1))
ENTRY = AuditEntry(called_at=at(0), address="203.0.113.7", action="admin_logs", details="", success=True)

CALLS: dict[str, Call] = {
    "unfinished": lambda store: store.unfinished(),
    "task": lambda store: store.task(TaskId("a")),
    "task_of_request": lambda store: store.task_of_request("a", "b"),
    "lanes": lambda store: store.lanes(),
    "unused_inputs": lambda store: store.unused_inputs(["inputs/a", "inputs/b"]),
    "last_sequence": lambda store: store.last_sequence(),
    "events": lambda store: store.events(EventQuery(after=7)),
    "events of a task": lambda store: store.events(EventQuery(after=7, task_id=TaskId("a"), event_types=frozenset({"x", "y"}))),
    "events of a lane": lambda store: store.events(EventQuery(after=7, lane_id=LaneId("a"))),
    "rare events": lambda store: store.events(EventQuery(after=7, event_types=frozenset({"lane_lost", "cold_start", "quota_denied"}))),
    "common events": lambda store: store.events(EventQuery(after=7, event_types=frozenset({"ended", "cold_start"}))),
    "session": lambda store: store.access.session("a"),
    "add_sessions": lambda store: store.access.add_sessions([Session(session_id="a", token_sha256="b", expires_at=at(0))]),
    "admin_session": lambda store: store.access.admin_session("a"),
    "change_admin_session": lambda store: store.access.change_admin_session("a", lambda _: AdminChange(session=ADMIN, entry=ENTRY)),
    "write_audit": lambda store: store.access.write_audit([ENTRY], {1: "details"}),
    "prune_audit": lambda store: store.access.prune_audit(at(0), keep=5, limit=5),
}
WRITES: dict[str, Callable[[SqlStore, int], Awaitable[object]]] = {
    "new": lambda store, epoch: store.write(
        epoch, Batch(tasks=[make_task(parameters={"image": {"key": "inputs/a"}})], events=[make_event()], lanes=[make_known_lane()])
    ),
    "change and delete": lambda store, epoch: store.write(
        epoch, Batch(tasks=[make_task(state=TaskState.DONE)], deleted=[TaskId("a"), TaskId("b")], forgotten_lanes=[LaneId("a")])
    ),
    "prune": lambda store, epoch: store.prune(
        epoch, Retention(tasks_before=dict.fromkeys(TERMINAL, at(0)), events_before=at(10**9), limit=5)
    ),
}
PAGES = {
    f"{sort} of {model} from {end}": TaskQuery(
        page=1 if end == "the front" else 600, sort=sort, model=model, states=frozenset({TaskState.DONE}), page_size=20
    )
    for sort in TaskSort
    for model in (None, "anisora")
    for end in ("the front", "the back")
}
# Of the benchmark's owners, each of whom has some 20 tasks.
OWNERS_PAGES = {
    f"{sort} of {model}": TaskQuery(sort=sort, model=model, owner="session-7", states=frozenset({TaskState.DONE}))
    for sort in TaskSort
    for model in (None, "anisora")
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of many tasks, made once."""
    made = tmp_path_factory.mktemp("plans") / "store.db"
    asyncio.run(store_scale.build(made, ended=ENDED, unfinished=UNFINISHED))
    return made


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    """The open store of those tasks."""
    new = SqlStore(f"sqlite:///{path}")
    await new.open()
    yield new
    await new.close()


@contextmanager
def traced() -> Iterator[list[str]]:
    """Every statement that connections made from here on execute, with its values."""
    statements: list[str] = []

    def trace(connection: sqlite3.Connection, _entry: object) -> None:
        connection.set_trace_callback(statements.append)

    event.listen(Engine, "connect", trace)
    try:
        yield statements
    finally:
        event.remove(Engine, "connect", trace)


def plans(path: Path, statements: list[str]) -> list[str]:
    """Every step of the plans of these statements."""
    planned = [sql for sql in statements if sql.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"))]
    assert planned
    with closing(sqlite3.connect(path)) as connection:
        return [step for sql in planned for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


async def steps(path: Path, call: Call) -> list[str]:
    """The plans of what the call executes on a store of its own."""
    with traced() as statements:
        store = SqlStore(f"sqlite:///{path}")
        await store.open()
        statements.clear()
        await call(store)
        found = list(statements)
        await store.close()
    return plans(path, found)


def scans(found: list[str]) -> list[str]:
    """Steps that pass over a whole table that may be large."""
    return [
        step
        for step in found
        if step.startswith("SCAN") and any(table in step for table in LARGE) and not any(name in step for name in SMALL)
    ]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_no_large_table_is_passed_over_when_the_store_is_asked(store: SqlStore, path: Path, call: Call) -> None:
    assert scans(await steps(path, call)) == []


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES.keys())
async def test_no_large_table_is_passed_over_when_something_is_written(
    store: SqlStore, path: Path, call: Callable[[SqlStore, int], Awaitable[object]]
) -> None:
    epoch = await store.claim_epoch()
    assert scans(await steps(path, lambda other: call(other, epoch))) == []


@pytest.mark.parametrize("query", PAGES.values(), ids=PAGES.keys())
async def test_a_page_comes_out_of_an_index_in_its_order_when_the_gallery_is_shown(store: SqlStore, path: Path, query: TaskQuery) -> None:
    page = await store.page(query)
    assert len(page.tasks) == 20
    found = await steps(path, lambda other: other.page(query))
    assert scans(found) == []
    assert [step for step in found if "TEMP B-TREE FOR ORDER BY" in step] == []
    assert [step for step in found if step.startswith("SEARCH tasks USING COVERING INDEX ix_tasks_ended")] != []


@pytest.mark.parametrize("query", OWNERS_PAGES.values(), ids=OWNERS_PAGES.keys())
async def test_an_owners_page_and_total_come_out_of_their_index_when_a_private_gallery_is_shown(
    store: SqlStore, path: Path, query: TaskQuery
) -> None:
    page = await store.page(query)
    assert page.total == len(page.tasks) > 0
    found = await steps(path, lambda other: other.page(query))
    assert scans(found) == []
    # The ids and the count; the tasks themselves are read by their ids.
    assert len([step for step in found if step.startswith("SEARCH tasks USING COVERING INDEX ix_tasks_ended_owner")]) == 2
    # In the order of the index only the newest first; the few of an owner are sorted for every other one.
    assert ("USE TEMP B-TREE FOR ORDER BY" in found) == (query.sort is not TaskSort.CREATED_AT)


async def test_only_unfinished_tasks_are_sorted_when_pages_of_every_state_are_shown(store: SqlStore, path: Path) -> None:
    found = await steps(path, lambda other: other.page(TaskQuery(page=100)))
    assert scans(found) == []
    assert len([step for step in found if "TEMP B-TREE FOR ORDER BY" in step]) == 1


@pytest.mark.long
async def test_every_figure_is_told_when_the_benchmark_is_run_small(tmp_path: Path) -> None:
    path = tmp_path / "small.db"
    await store_scale.build(path, ended=500, unfinished=20)
    figures = await store_scale.measure(path, ended=500)
    assert {"open", "unfinished", "status", "bare commit", "write of 64", "prune of 50"} <= figures.keys()
    assert figures["write of 1"]["to_bare_commit"] > 0
