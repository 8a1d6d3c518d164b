"""What PostgreSQL adds to the contract: a server that goes away, two programs at once, and commits whose end nobody saw."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event

from admission.core.tasks import TaskId
from admission.store import commits
from admission.store.port import Batch, EventQuery, StaleEpochError, StoreUnavailableError, TaskQuery
from admission.store.sql import SqlStore
from tests.contract.stored import events
from tests.harness.postgresql import PostgresqlServer
from tests.harness.tasks import make_event, make_task

BATCH = Batch(tasks=[make_task()], events=[make_event()])


@pytest.fixture
async def store(postgresql_url: str) -> AsyncIterator[SqlStore]:
    """An open, empty store, which waits 200 ms for other writers."""
    new = SqlStore(postgresql_url, busy_timeout_s=0.2)
    await new.open()
    yield new
    await new.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[PostgresqlServer]:
    """A server that a test may stop."""
    with tempfile.TemporaryDirectory(prefix="warmlane-pg-") as folder:
        server = PostgresqlServer(Path(folder))
        server.start()
        yield server
        server.stop()


@contextmanager
def at_commit(hook: Callable[[Connection], None]) -> Iterator[None]:
    """Runs the hook once, right before the next commit of anything is sent."""
    is_due = threading.Event()

    def once(connection: Connection) -> None:
        if not is_due.is_set():
            is_due.set()
            hook(connection)

    event.listen(Engine, "commit", once)
    try:
        yield
    finally:
        event.remove(Engine, "commit", once)


def cut(url: str) -> Callable[[Connection], None]:
    """Ends the server's side of the connection."""

    def hook(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (driver.info.backend_pid,))

    return hook


def commit_and_cut(url: str) -> Callable[[Connection], None]:
    """Lets the server commit, and ends the connection before that is known."""

    def hook(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.execute("COMMIT")
        cut(url)(connection)
        # As the driver finds it when it waits for the answer.
        driver.close()

    return hook


async def settings(store: SqlStore, names: tuple[str, ...]) -> tuple[dict[str, object], dict[str, object]]:
    """What is in force for the writer and for the readers."""

    def show(connection: Connection) -> dict[str, object]:
        return {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}

    return await store._database.write(show), await store._database.read(show)


# Connections


async def test_limits_and_durability_are_in_force_when_connections_are_used(store: SqlStore) -> None:
    names = ("statement_timeout", "lock_timeout", "timezone", "synchronous_commit", "transaction_isolation", "transaction_read_only")
    writer, reader = await settings(store, names)
    assert list(writer.values()) == ["10s", "200ms", "UTC", "on", "read committed", "off"]
    assert list(reader.values()) == ["10s", "200ms", "UTC", "on", "repeatable read", "on"]


async def test_times_come_back_when_the_database_has_another_time_zone(postgresql_server: PostgresqlServer, postgresql_url: str) -> None:
    name = psycopg.sql.Identifier(postgresql_server.name_of(postgresql_url))
    postgresql_server.execute(psycopg.sql.SQL("ALTER DATABASE {} SET timezone = 'Asia/Kathmandu'").format(name))
    store = SqlStore(postgresql_url)
    await store.open()
    await store.write(await store.claim_epoch(), BATCH)
    assert await store.task(TaskId("task-1")) == make_task()
    await store.close()


async def test_opening_is_refused_without_the_password_when_nobody_listens() -> None:
    store = SqlStore("postgresql://user:secret@127.0.0.1:1/warmlane")
    with pytest.raises(StoreUnavailableError) as caught:
        await store.open()
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    await store.close()


async def test_opening_is_refused_when_the_database_does_not_exist(postgresql_server: PostgresqlServer) -> None:
    store = SqlStore(postgresql_server.url("none"))
    with pytest.raises(StoreUnavailableError, match="does not exist"):
        await store.open()
    await store.close()


# Two programs


async def test_the_older_of_two_stores_is_refused_when_the_newer_claimed(store: SqlStore, postgresql_url: str) -> None:
    newer = SqlStore(postgresql_url)
    old = await store.claim_epoch()
    await newer.open()
    new = await newer.claim_epoch()
    with pytest.raises(StaleEpochError):
        await store.write(old, BATCH)
    await newer.write(new, BATCH)
    assert (await store.events(EventQuery())).last_sequence == 1
    await newer.close()


async def test_a_write_fails_whole_and_succeeds_later_when_another_program_holds_the_lock(store: SqlStore, postgresql_url: str) -> None:
    epoch = await store.claim_epoch()
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT epoch FROM controller FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="lock timeout"):
            await store.write(epoch, BATCH)
    assert await store.task(TaskId("task-1")) is None
    await store.write(epoch, BATCH)
    assert await store.task(TaskId("task-1")) == make_task()


async def test_a_table_lock_does_not_stop_the_event_loop_when_reads_wait_for_it(store: SqlStore, postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as other:
        other.execute("LOCK TABLE tasks")
        with pytest.raises(StoreUnavailableError, match="lock timeout"):
            await store.page(TaskQuery())
    assert (await store.page(TaskQuery())).total == 0


# A server that goes away


async def test_nothing_is_noticed_when_the_server_was_restarted_between_calls(own_server: PostgresqlServer) -> None:
    store = SqlStore(own_server.create_database())
    await store.open()
    epoch = await store.claim_epoch()
    await store.write(epoch, BATCH)
    await store.page(TaskQuery())
    own_server.stop(how=signal.SIGINT)
    own_server.start()
    await store.write(epoch, Batch(tasks=[make_task("task-2")]))
    assert (await store.page(TaskQuery())).total == 2
    await store.close()


async def test_calls_are_refused_and_succeed_later_when_the_server_is_down_for_a_while(own_server: PostgresqlServer) -> None:
    store = SqlStore(own_server.create_database())
    await store.open()
    epoch = await store.claim_epoch()
    own_server.stop(how=signal.SIGQUIT)
    with pytest.raises(StoreUnavailableError):
        await store.write(epoch, BATCH)
    with pytest.raises(StoreUnavailableError):
        await store.page(TaskQuery())
    own_server.start()
    await store.write(epoch, BATCH)
    assert await store.unfinished() == (make_task(),)
    assert (await store.events(EventQuery())).last_sequence == 1
    await store.close()


# Commits whose end nobody saw


@pytest.mark.parametrize("how", [cut, commit_and_cut])
async def test_a_batch_is_stored_once_when_the_connection_ends_at_its_commit(
    store: SqlStore, postgresql_url: str, how: Callable[[str], Callable[[Connection], None]]
) -> None:
    epoch = await store.claim_epoch()
    with at_commit(how(postgresql_url)):
        is_stored = await stored(store, epoch, BATCH)
    # Had it been told "not stored", it would be written again.
    assert is_stored == (how is commit_and_cut)
    assert len(await events(store)) == int(is_stored)
    if not is_stored:
        await store.write(epoch, BATCH)
    assert await store.unfinished() == (make_task(),)
    assert len(await events(store)) == 1


@pytest.mark.parametrize("how", [cut, commit_and_cut])
async def test_a_batch_without_events_is_stored_when_the_connection_ends_at_its_commit(
    store: SqlStore, postgresql_url: str, how: Callable[[str], Callable[[Connection], None]]
) -> None:
    epoch = await store.claim_epoch()
    with at_commit(how(postgresql_url)):
        await store.write(epoch, Batch(tasks=[make_task()]))
    assert (await store.page(TaskQuery())).total == 1


async def test_the_store_refuses_to_go_on_when_it_learns_late_that_a_refused_batch_was_stored(
    own_server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "IN_DOUBT_S", 0.0)
    url = own_server.create_database()
    store = SqlStore(url)
    await store.open()
    epoch = await store.claim_epoch()

    def commit_and_stop(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.execute("COMMIT")
        own_server.stop()
        driver.close()

    with at_commit(commit_and_stop), pytest.raises(StoreUnavailableError):
        await store.write(epoch, BATCH)
    await asyncio.to_thread(own_server.start)
    with pytest.raises(StaleEpochError, match="start again"):
        await store.write(epoch, BATCH)
    assert len(await events(store)) == 1
    await store.close()


async def test_the_store_goes_on_when_it_learns_late_that_a_refused_batch_was_not_stored(
    own_server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "IN_DOUBT_S", 0.0)
    store = SqlStore(own_server.create_database())
    await store.open()
    epoch = await store.claim_epoch()
    with at_commit(lambda _connection: own_server.stop(how=signal.SIGQUIT)), pytest.raises(StoreUnavailableError):
        await store.write(epoch, BATCH)
    await asyncio.to_thread(own_server.start)
    await store.write(epoch, BATCH)
    assert len(await events(store)) == 1
    await store.close()


async def stored(store: SqlStore, epoch: int, batch: Batch) -> bool:
    """Writes, and says what the store said of it."""
    try:
        await store.write(epoch, batch)
    except StoreUnavailableError:
        return False
    return True
