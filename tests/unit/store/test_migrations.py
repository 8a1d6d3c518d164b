"""The migrations lead to the schema that the queries are written against."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from admission.store import migrations
from admission.store.port import StoreUnavailableError
from admission.store.schema import METADATA
from admission.store.sql import SqlStore

DEFINITIONS = text("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%' AND sql IS NOT NULL ORDER BY name")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on an empty file."""
    new = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    yield new
    new.dispose()


def definitions(engine: Engine) -> dict[str, str]:
    """Every table and index as SQLite keeps it, white space and the order of lines put aside."""
    with engine.connect() as connection:
        found = connection.execute(DEFINITIONS)
        return {name: "\n".join(sorted(line.strip(" ,\t") for line in sql.splitlines())) for name, sql in found}


def test_alembic_finds_no_difference_when_the_migrated_schema_is_compared(engine: Engine) -> None:
    with engine.begin() as connection:
        migrations.apply(connection)
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_every_definition_is_the_same_when_tables_are_made_from_the_metadata(engine: Engine, tmp_path: Path) -> None:
    # compare_metadata sees no AUTOINCREMENT, no index condition and no names of keys.
    with engine.begin() as connection:
        migrations.apply(connection)
    made = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    METADATA.create_all(made)
    assert definitions(engine) == definitions(made)
    made.dispose()


def test_nothing_changes_when_migrations_are_applied_again(engine: Engine) -> None:
    for _ in range(2):
        with engine.begin() as connection:
            migrations.apply(connection)
            assert connection.execute(text("SELECT epoch FROM controller")).scalars().all() == [0]


def test_nothing_is_left_when_the_transaction_of_a_migration_is_rolled_back(path: Path, engine: Engine) -> None:
    with engine.connect() as connection:
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


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM tasks WHERE state IN ('queued', 'leased')", "ix_tasks_state_created_at"),
        ("SELECT * FROM tasks WHERE state IN ('done') ORDER BY created_at DESC, task_id LIMIT 20", "ix_tasks_state_created_at"),
        (
            "SELECT * FROM tasks WHERE model = 'm' AND state IN ('done') ORDER BY created_at DESC, task_id LIMIT 20",
            "ix_tasks_model_state_created_at",
        ),
        ("SELECT * FROM events WHERE task_id = 't' ORDER BY sequence", "ix_events_task_id"),
        ("DELETE FROM sessions WHERE expires_at < '2026'", "ix_sessions_expires_at"),
    ],
)
def test_an_index_serves_the_query_when_the_store_asks_it(engine: Engine, query: str, index: str) -> None:
    with engine.begin() as connection:
        migrations.apply(connection)
        plan = " ".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))
    assert f"INDEX {index}" in plan
    assert "SCAN tasks" not in plan
