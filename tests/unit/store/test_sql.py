"""What the durable store adds to the contract: the file, its durability, and what happens when the disk does not play along."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, make_url

from admission.core.tasks import TaskId
from admission.store.database import Database
from admission.store.port import Batch, StaleEpochError, StoreUnavailableError, TaskQuery
from admission.store.sql import BUSY_TIMEOUT_S, SqlStore
from admission.store.sqlite import SqliteBackend
from tests.contract.stored import events
from tests.harness.tasks import make_event, make_known_lane, make_task

PRAGMAS = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only")
FULL = 2

WRITER = """
import asyncio, sys
from admission.store.port import Batch
from admission.store.sql import SqlStore
from tests.contract.stored import events
from tests.harness.tasks import make_event, make_known_lane, make_task

async def main():
    store = SqlStore(sys.argv[1])
    await store.open()
    await store.write(await store.claim_epoch(), Batch(tasks=[make_task()], lanes=[make_known_lane()], events=[make_event()]))
    print("written", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def writing_elsewhere(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's write transaction, as SQLite sees it; rolled back at the end."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


@contextmanager
def files_no_longer_than(size_bytes: int) -> Iterator[None]:
    """The operating system refuses this process to write any file beyond the size: a real error from a real write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def put(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Writes a file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def open_files(path: Path) -> list[Path]:
    """This process's open files whose names begin with the path."""
    links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return [target for target in (link.readlink() for link in links) if str(target).startswith(str(path))]


def pragmas(connection: Connection) -> dict[str, object]:
    """What is in force on the connection."""
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in PRAGMAS}


# The file


async def test_folder_and_file_are_made_for_the_owner_alone_when_missing(store: SqlStore, path: Path) -> None:
    await store.claim_epoch()
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == {"admission.db": 0o600, "admission.db-wal": 0o600, "admission.db-shm": 0o600}


async def test_a_relative_path_is_below_the_working_folder_when_the_url_has_three_slashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SqlStore("sqlite:///data/admission.db")
    await store.open()
    await store.close()
    assert (tmp_path / "data" / "admission.db").is_file()


async def test_the_pragmas_are_in_force_when_connections_are_used(path: Path) -> None:
    database = Database(SqliteBackend(make_url(f"sqlite:///{path}"), busy_timeout_s=BUSY_TIMEOUT_S))
    await database.open(lambda _connection: None)
    common = {"journal_mode": "wal", "synchronous": FULL, "foreign_keys": 1, "busy_timeout": 5000}
    assert await database.write(pragmas) == {**common, "query_only": 0}
    assert await database.read(pragmas) == {**common, "query_only": 1}
    await database.close()


async def test_a_read_cannot_write_when_it_tries(path: Path) -> None:
    database = Database(SqliteBackend(make_url(f"sqlite:///{path}"), busy_timeout_s=BUSY_TIMEOUT_S))
    await database.open(lambda connection: connection.exec_driver_sql("CREATE TABLE t (x)").close())
    with pytest.raises(StoreUnavailableError, match="readonly"):
        await database.read(lambda connection: connection.exec_driver_sql("INSERT INTO t VALUES (1)"))
    await database.close()


async def test_no_thread_is_left_when_the_store_is_closed(path: Path) -> None:
    store = SqlStore(f"sqlite:///{path}")
    await store.open()
    await store.write(await store.claim_epoch(), Batch(tasks=[make_task()]))
    await asyncio.gather(*(store.task(TaskId("task-1")) for _ in range(4)))
    await store.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("store-")] == []


# Durability


async def test_everything_is_there_when_another_process_opens_the_file(store: SqlStore, path: Path) -> None:
    await store.write(await store.claim_epoch(), Batch(tasks=[make_task()]))
    await store.close()
    other = SqlStore(f"sqlite:///{path}")
    await other.open()
    assert await other.task(TaskId("task-1")) == make_task()
    assert await other.claim_epoch() == 2
    await other.close()


async def test_a_finished_write_is_there_when_its_process_was_killed(path: Path) -> None:
    url = f"sqlite:///{path}"
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220 - nothing else runs
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
        finally:
            process.send_signal(signal.SIGKILL)
    store = SqlStore(url)
    await store.open()
    assert await store.unfinished() == (make_task(),)
    assert await store.lanes() == (make_known_lane(),)
    assert await events(store) == [make_event()]
    assert await store.claim_epoch() == 2
    await store.close()


# Two admissions


async def test_the_older_of_two_stores_is_refused_when_the_newer_claimed(store: SqlStore, path: Path) -> None:
    newer = SqlStore(f"sqlite:///{path}")
    old = await store.claim_epoch()
    await newer.open()
    new = await newer.claim_epoch()
    with pytest.raises(StaleEpochError):
        await store.write(old, Batch(tasks=[make_task()]))
    await newer.write(new, Batch(tasks=[make_task("task-2")]))
    assert [task.task_id for task in (await store.page(TaskQuery())).tasks] == ["task-2"]
    await newer.close()


async def test_each_store_gets_its_own_epoch_when_several_open_a_new_file_at_once(path: Path) -> None:
    stores = [SqlStore(f"sqlite:///{path}") for _ in range(3)]
    await asyncio.gather(*(store.open() for store in stores))
    assert sorted(await asyncio.gather(*(store.claim_epoch() for store in stores))) == [1, 2, 3]
    await asyncio.gather(*(store.close() for store in stores))


# What goes wrong


async def test_a_write_fails_whole_and_succeeds_later_when_another_process_holds_the_lock(store: SqlStore, path: Path) -> None:
    epoch = await store.claim_epoch()
    with writing_elsewhere(path), pytest.raises(StoreUnavailableError, match="locked") as caught:
        await store.write(epoch, Batch(tasks=[make_task()]))
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert await store.task(TaskId("task-1")) is None
    await store.write(epoch, Batch(tasks=[make_task()]))
    assert await store.task(TaskId("task-1")) == make_task()


async def test_reads_and_the_event_loop_go_on_when_a_write_waits_for_a_lock(path: Path) -> None:
    store = SqlStore(f"sqlite:///{path}", busy_timeout_s=60)
    await store.open()
    epoch = await store.claim_epoch()
    with writing_elsewhere(path) as other:
        write = asyncio.create_task(store.write(epoch, Batch(tasks=[make_task()])), name="write")
        for _ in range(3):
            assert await store.task(TaskId("task-1")) is None
        assert not write.done()
        other.execute("ROLLBACK")
        await write
    assert await store.task(TaskId("task-1")) == make_task()
    await store.close()


async def test_a_write_fails_whole_and_succeeds_later_when_the_disk_refuses_more(store: SqlStore) -> None:
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(tasks=[make_task()]))
    large = make_task("task-2", parameters={"prompt": "x" * 2_000_000})
    with files_no_longer_than(1_000_000):
        with pytest.raises(StoreUnavailableError):
            await store.write(epoch, Batch(tasks=[make_task(attempt=1), large]))
        # What is small enough is still served: the store is not broken by the failure.
        await store.write(epoch, Batch(lanes=[make_known_lane()]))
    assert await store.unfinished() == (make_task(),)
    await store.write(epoch, Batch(tasks=[large]))
    assert await store.task(TaskId("task-2")) == large


async def test_writes_fail_whole_and_succeed_later_when_the_database_is_full(path: Path) -> None:
    pages = 200

    def limit(connection: sqlite3.Connection, _entry: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "connect", limit)
    try:
        store = SqlStore(f"sqlite:///{path}")
        await store.open()
        epoch = await store.claim_epoch()
        refused: list[StoreUnavailableError] = []
        stored = 0
        while not refused and stored < 200:
            new = make_task(f"task-{stored}", parameters={"prompt": "x" * 10_000, "image": {"key": f"inputs/{stored}"}})
            try:
                await store.write(epoch, Batch(tasks=[new], events=[make_event(task_id=new.task_id)]))
            except StoreUnavailableError as error:
                refused.append(error)
            else:
                stored += 1
        assert "full" in str(refused[0])
        assert stored > 0
        assert (await store.page(TaskQuery())).total == await store.last_sequence() == stored
        assert await store.unused_inputs([f"inputs/{stored}", "inputs/0"]) == {f"inputs/{stored}"}
        # Room again, found by the same open store.
        pages = 10_000
        await store.write(epoch, Batch(tasks=[new], events=[make_event(task_id=new.task_id)]))
        assert (await store.page(TaskQuery())).total == await store.last_sequence() == stored + 1
        await store.close()
    finally:
        event.remove(Engine, "connect", limit)


async def test_prompts_stay_out_of_the_error_when_a_write_fails(store: SqlStore) -> None:
    epoch = await store.claim_epoch()
    # Made at run time: a traceback quotes the source.
    prompt = uuid.uuid4().hex
    with files_no_longer_than(1_000_000), pytest.raises(StoreUnavailableError) as caught:
        await store.write(epoch, Batch(tasks=[make_task(parameters={"prompt": prompt * 60_000})]))
    assert prompt not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("content", [b"this is no database " * 400, b"SQLite format 3\0" + b"\xff" * 8000], ids=["text", "damaged"])
async def test_opening_is_refused_when_the_file_is_no_database(path: Path, content: bytes) -> None:
    put(path, content)
    store = SqlStore(f"sqlite:///{path}")
    with pytest.raises(StoreUnavailableError):
        await store.open()
    await store.close()
    assert await asyncio.to_thread(path.read_bytes) == content


async def test_opening_is_refused_when_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StoreUnavailableError) as caught:
        await SqlStore(f"sqlite:///{tmp_path / 'data' / 'admission.db'}").open()
    assert isinstance(caught.value.__cause__, OSError)


async def test_opening_is_refused_when_the_file_is_a_folder(path: Path) -> None:
    put(path / "inside", b"")
    with pytest.raises(StoreUnavailableError):
        await SqlStore(f"sqlite:///{path}").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_opening_is_refused_when_the_file_may_not_be_written(path: Path) -> None:
    put(path, b"", mode=0o400)
    with pytest.raises(StoreUnavailableError):
        await SqlStore(f"sqlite:///{path}").open()


async def test_opening_succeeds_when_the_reason_of_a_refusal_is_gone(tmp_path: Path) -> None:
    in_the_way = tmp_path / "data"
    in_the_way.touch()
    store = SqlStore(f"sqlite:///{in_the_way / 'admission.db'}")
    with pytest.raises(StoreUnavailableError):
        await store.open()
    in_the_way.unlink()
    await store.open()
    assert await store.claim_epoch() == 1
    await store.close()


async def test_the_write_is_done_or_undone_when_its_caller_is_cancelled(store: SqlStore) -> None:
    epoch = await store.claim_epoch()
    write = asyncio.create_task(store.write(epoch, Batch(tasks=[make_task("a"), make_task("b")])), name="write")
    await asyncio.sleep(0)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await store.write(epoch, Batch())
    assert (await store.page(TaskQuery())).total in (0, 2)


async def test_nothing_is_left_open_when_opening_fails(path: Path) -> None:
    put(path, b"this is no database " * 400)
    with pytest.raises(StoreUnavailableError):
        await SqlStore(f"sqlite:///{path}").open()
    gc.collect()
    assert open_files(path) == []
