"""The migrations lead to the schema that the queries are written against, from everything that was ever released."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, create_engine, inspect, text

from admission.core.lanes import KnownLane, LaneSpec
from admission.core.tasks import Event, LaneId, LaneMode, MemoryRecord, Model, Task, TaskId, TaskState
from admission.store import migrations
from admission.store.access_port import Session
from admission.store.port import Batch, EventQuery, Retention, StoreUnavailableError, TaskQuery
from admission.store.schema import METADATA
from admission.store.sql import SqlStore
from tests.harness.postgresql import PostgresqlServer
from tests.harness.tasks import at, make_task

# Tables and indexes as the engine itself tells them; on PostgreSQL keys are indexes too.
SQLITE = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%' AND name NOT LIKE 'sqlite%' ORDER BY name"
POSTGRESQL = """
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL
SELECT table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, column_default, collation_name)
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
"""
_ADDED_COLUMN = re.compile(r", (?=\w+ (?:TEXT|INTEGER|BIGINT|DATETIME|BOOLEAN)\b)")


def definitions(engine: Engine) -> dict[str, str]:
    """Every table and index as the engine keeps it, white space and the order of lines put aside."""
    with engine.connect() as connection:
        found = connection.execute(text(SQLITE if engine.dialect.name == "sqlite" else POSTGRESQL))
        return {name: _sorted_lines(sql) for name, sql in found}


def _sorted_lines(definition: str) -> str:
    # A column that was added stands in the line of the one before it.
    lines = _ADDED_COLUMN.sub(",\n", definition).splitlines()
    return "\n".join(sorted(line.strip(" ,\t") for line in lines))


# It cannot compare indexes in descending order on SQLite, and says so; the next test does.
@pytest.mark.filterwarnings("ignore:autogenerate skipping")
def test_alembic_finds_no_difference_when_the_migrated_schema_is_compared(engine: Engine) -> None:
    def is_comparable(_item: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        return not (kind == "index" and name is not None and name.startswith("ix_tasks_ended_"))

    with engine.begin() as connection:
        migrations.apply(connection)
        context = MigrationContext.configure(connection, opts={"include_object": is_comparable})
        assert compare_metadata(context, METADATA) == []


def test_every_definition_is_the_same_when_tables_are_made_from_the_metadata(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # compare_metadata sees no conditions and directions of indexes and no names of keys.
    with engine.begin() as connection:
        migrations.apply(connection)
    if engine.dialect.name == "sqlite":
        made = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    else:
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        made = create_engine(engine.url.set(database=server.name_of(server.create_database())))
    METADATA.create_all(made)
    assert definitions(engine) == definitions(made)
    made.dispose()


def test_nothing_changes_when_migrations_are_applied_again(engine: Engine) -> None:
    for _ in range(2):
        with engine.begin() as connection:
            migrations.apply(connection)
            assert connection.execute(text("SELECT epoch FROM controller")).scalars().all() == [0]


def test_nothing_is_left_when_the_transaction_of_a_migration_is_rolled_back(engine: Engine) -> None:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # As the store does: the driver itself would not begin a transaction for CREATE TABLE.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        migrations.apply(connection)
        connection.rollback()
    assert inspect(engine).get_table_names() == []


async def test_opening_is_refused_when_a_newer_release_made_the_database(store: SqlStore, path: Path) -> None:
    await store.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUnavailableError, match="another release"):
        await store.open()


# From everything that was released


OLD_TASK = make_task("old", state=TaskState.DONE, created_at=at(5), parameters={"image": {"key": "inputs/a"}, "width": 512, "height": 256})
OLD_TASKS = (
    OLD_TASK,
    make_task("waiting", created_at=at(6), boot_id="boot"),
    make_task("other", state=TaskState.FAILED, model=Model("phr00t")),
)
OLD_EVENTS = (
    Event(event_type="memory_record", created_at=at(1), task_id=TaskId("old"), attempt=1, memory=MemoryRecord(figures={"peak": 1})),
    Event(event_type="lane_ready", created_at=at(2), lane_id=LaneId("lane")),
    Event(event_type="ended", created_at=at(3), task_id=TaskId("deleted"), value="done", reason="why"),
)
OLD_LANE = LaneSpec(lane_id=LaneId("lane"), mode=LaneMode.DEDICATED, models=(Model("anisora"),), device="A10G")
OLD_SESSION = Session(session_id="id", token_sha256="hash", expires_at=at(60))


def fill_0001(connection: Connection) -> None:
    """What a store of the first release wrote: OLD_TASKS and so on, and an event that is deleted again."""
    tables = MetaData()
    tables.reflect(connection)
    for task in OLD_TASKS:
        connection.execute(tables.tables["tasks"].insert(), task_0001(task))
    events = tables.tables["events"]
    for event in (*OLD_EVENTS, OLD_EVENTS[-1]):
        connection.execute(
            events.insert(),
            {
                "task_id": event.task_id,
                "event_type": event.event_type,
                "created_at": event.created_at,
                "value": event.value,
                "reason": event.reason,
                "attempt": event.attempt,
                "lane_id": event.lane_id,
                "memory": None if event.memory is None else '{"unmeasured_reason":"","figures":{"peak":1}}',
            },
        )
    connection.execute(events.delete().where(events.c.sequence == 4))
    lane = {"lane_id": "lane", "mode": "dedicated", "models": '["anisora"]', "device": "A10G"}
    connection.execute(tables.tables["lanes"].insert(), lane)
    session = {"session_id": "id", "token_sha256": "hash", "expires_at": OLD_SESSION.expires_at}
    connection.execute(tables.tables["sessions"].insert(), session)
    connection.execute(tables.tables["controller"].update().values(epoch=7))


def task_0001(task: Task) -> dict[str, object]:
    """A row as the first release wrote it."""
    parameters = '{"image":{"key":"inputs/a"},"width":512,"height":256}' if task is OLD_TASK else PLAIN
    size = (512, 256) if task is OLD_TASK else (512, 512)
    return {
        "task_id": task.task_id, "owner": task.owner, "model": task.model, "mode": task.mode, "parameters": parameters,
        "width": size[0], "height": size[1], "tokens": task.tokens, "state": task.state.value, "created_at": task.created_at,
        "updated_at": task.updated_at, "queued_at": task.queued_at, "attempt": task.attempt, "lost_lanes": 0, "boot_id": task.boot_id,
        "is_withdrawn": False, "progress": 0, "stage": "queued", "stage_detail": "",
    }  # fmt: skip


def fill_0002(connection: Connection) -> None:
    """The same, as a store of the second release wrote it."""
    tables = MetaData()
    tables.reflect(connection)
    for task in OLD_TASKS:
        connection.execute(tables.tables["tasks"].insert(), task_0001(task) | {"fingerprint": ""})
        if task.state is not TaskState.QUEUED:
            connection.execute(tables.tables["task_counts"].insert(), {"model": task.model, "state": task.state.value, "tasks": 1})
    connection.execute(tables.tables["task_inputs"].insert(), {"key": "inputs/a", "task_id": "old"})
    for sequence, event in enumerate(OLD_EVENTS, start=1):
        connection.execute(
            tables.tables["events"].insert(),
            {
                "sequence": sequence,
                "task_id": event.task_id,
                "event_type": event.event_type,
                "created_at": event.created_at,
                "value": event.value,
                "reason": event.reason,
                "attempt": event.attempt,
                "lane_id": event.lane_id,
                "memory": None if event.memory is None else '{"unmeasured_reason":"","figures":{"peak":1}}',
                "is_loose": event.task_id != "old",
            },
        )
    lane = {"lane_id": "lane", "mode": "dedicated", "models": '["anisora"]', "device": "A10G", "is_drained": False}
    connection.execute(tables.tables["lanes"].insert(), lane)
    session = {"session_id": "id", "token_sha256": "hash", "expires_at": OLD_SESSION.expires_at}
    connection.execute(tables.tables["sessions"].insert(), session)
    connection.execute(tables.tables["controller"].update().values(epoch=7, last_sequence=4))


PLAIN = '{"prompt":"a lighthouse at dusk","width":512,"height":512,"num_frames":17,"seed":7}'
FILLS: dict[str, Callable[[Connection], None]] = {
    "0001": fill_0001,
    "0002": fill_0002,
    # What the third release added is empty here, as it was for whoever came from the second.
    "0003": fill_0002,
    # As what the fourth and the fifth added.
    "0004": fill_0002,
    "0005": fill_0002,
}


def test_there_are_rows_of_every_earlier_schema_when_a_revision_is_added() -> None:
    config = Config()
    config.set_main_option("script_location", "admission.store:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert {script.revision for script in scripts.walk_revisions()} - {scripts.get_current_head()} == set(FILLS)


@pytest.fixture(params=FILLS.keys())
def revision(request: pytest.FixtureRequest, engine: Engine) -> str:
    """An earlier revision; the database at `url` is of it and has rows."""
    earlier: str = request.param
    with engine.begin() as connection:
        migrations.apply(connection, to=earlier)
        FILLS[earlier](connection)
    return earlier


async def test_everything_is_read_when_an_earlier_release_wrote_it(url: str, revision: str) -> None:
    store = SqlStore(url)
    await store.open()
    for task in OLD_TASKS:
        assert await store.task(task.task_id) == task
    assert [task.task_id for task in await store.unfinished()] == ["waiting"]
    assert await store.lanes() == (KnownLane(spec=OLD_LANE),)
    assert await store.learned() == ()
    assert await store.access.session("hash") == OLD_SESSION
    assert await store.access.audit(1) == ()
    page = await store.events(EventQuery())
    assert [(event.sequence, event.event_type, event.memory) for event in page.events] == [
        (number, event.event_type, event.memory) for number, event in enumerate(OLD_EVENTS, start=1)
    ]
    assert await store.claim_epoch() == 8
    await store.close()


async def test_what_is_new_is_worked_out_when_an_earlier_release_wrote_the_rows(url: str, revision: str) -> None:
    store = SqlStore(url)
    await store.open()
    epoch = await store.claim_epoch()
    totals = {
        (model, state): (await store.page(TaskQuery(model=model, states=frozenset({state})))).total
        for model in ("anisora", "phr00t")
        for state in (TaskState.QUEUED, TaskState.DONE, TaskState.FAILED)
    }
    assert {key for key, total in totals.items() if total == 1} == {
        ("anisora", TaskState.DONE), ("anisora", TaskState.QUEUED), ("phr00t", TaskState.FAILED),
    }  # fmt: skip
    assert await store.unused_inputs(["inputs/a", "inputs/b"]) == {"inputs/b"}
    newest = await store.last_sequence()
    await store.write(epoch, Batch(events=[OLD_EVENTS[0]]))
    assert await store.last_sequence() > newest
    # Those of the lane and of the deleted task.
    assert (await store.prune(epoch, Retention(tasks_before={}, events_before=at(60)))).events == 2
    await store.close()


async def test_the_highest_number_ever_counts_when_its_event_is_gone(tmp_path: Path) -> None:
    # SQLite knows it; PostgreSQL was not served by the first release.
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = create_engine(url)
    with engine.begin() as connection:
        migrations.apply(connection, to="0001")
        fill_0001(connection)
    engine.dispose()
    store = SqlStore(url)
    await store.open()
    assert await store.last_sequence() == 4
    await store.close()


async def test_each_store_opens_when_several_migrate_one_database_at_once(url: str, revision: str) -> None:
    stores = [SqlStore(url) for _ in range(3)]
    await asyncio.gather(*(store.open() for store in stores))
    assert sorted(await asyncio.gather(*(store.claim_epoch() for store in stores))) == [8, 9, 10]
    await asyncio.gather(*(store.close() for store in stores))
