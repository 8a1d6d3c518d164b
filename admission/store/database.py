"""One SQLite database: its file, its connections and the threads that use them; the one place that knows the engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from admission.store.port import StoreUnavailableError

T = TypeVar("T")

# Reads are short and the file is in the page cache; two threads keep a long gallery page from holding up a status read.
READERS = 2

# These say that the program is wrong, not that the database is away.
_BUGS = (IntegrityError, ProgrammingError, DataError, NotSupportedError)
_OPERATIONAL = (DBAPIError, PoolTimeoutError, OSError)


def upsert(table: Table) -> sqlite.Insert:
    """An insert that replaces the whole row of the same key. PostgreSQL's own `insert` has the same calls."""
    insert = sqlite.insert(table)
    others = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=others)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """An engine with the only threads that use it."""

    engine: Engine
    executor: Executor

    def end(self) -> None:
        """Waits for what was handed in, then closes the connections. Blocks."""
        self.executor.shutdown(wait=True)
        self.engine.dispose()


class Database:
    """Runs work in transactions: writes one after another in a thread of their own, reads beside them on the last committed state.

    WAL with synchronous=FULL: when a write returns, its log is flushed to the disk with one fsync.
    """

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        """Takes the address; nothing is touched before `open`.

        Args:
            url: `sqlite:///path`.
            busy_timeout_s: how long a transaction waits for one of another process.
        """
        self._url = url
        self._busy_timeout_s = busy_timeout_s
        self._writing: _Side | None = None
        self._reading: _Side | None = None
        self._opening = asyncio.Lock()

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Makes folder and file when missing, then runs `prepare` in one transaction. Does nothing when open already.

        Raises:
            StoreUnavailableError: any of it failed; `open` may be called again.
        """
        async with self._opening:
            if self._writing is not None:
                return
            writing = _Side(engine=self._engine(read_only=False, size=1), executor=_threads(1, "store-write"))
            try:
                await _in_thread(writing, lambda: self._prepare(writing.engine, prepare))
            except BaseException:
                await asyncio.to_thread(writing.end)
                raise
            self._reading = _Side(engine=self._engine(read_only=True, size=READERS), executor=_threads(READERS, "store-read"))
            self._writing = writing

    async def close(self) -> None:
        """Ends what runs, every connection and every thread."""
        async with self._opening:
            sides = [side for side in (self._reading, self._writing) if side is not None]
            self._reading = self._writing = None
            await asyncio.to_thread(_end, sides)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs the work in the writer's thread, alone, in a transaction that is on disk when this returns."""
        return await self._run(self._writing, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs the work in a reader's thread on one consistent state; it cannot write."""
        return await self._run(self._reading, work)

    async def _run(self, side: _Side | None, work: Callable[[Connection], T]) -> T:
        if side is None:
            msg = "the store is not open"
            raise StoreUnavailableError(msg)
        return await _in_thread(side, lambda: _transact(side.engine, work))

    def _prepare(self, engine: Engine, prepare: Callable[[Connection], None]) -> None:
        try:
            _make_file(Path(str(self._url.database)))
        except OSError as error:
            raise _unavailable(error) from error
        _transact(engine, prepare)

    def _engine(self, *, read_only: bool, size: int) -> Engine:
        engine = create_engine(
            self._url,
            connect_args={"timeout": self._busy_timeout_s},
            pool_size=size,
            max_overflow=0,
            pool_timeout=self._busy_timeout_s,
            # Parameters hold prompts: they must not get into messages and logs.
            hide_parameters=True,
        )
        event.listen(engine, "connect", _configure_reader if read_only else _configure_writer)
        # A writer that took the lock only at its first change could fail in the middle, after it had read the epoch.
        begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine


def _end(sides: Sequence[_Side]) -> None:
    """All in one go, so that a cancelled `close` leaves none behind."""
    for side in sides:
        side.end()


def _threads(count: int, name: str) -> Executor:
    return ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)


async def _in_thread(side: _Side, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(side.executor, work)


def _transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    try:
        with engine.begin() as connection:
            return work(connection)
    except _BUGS:
        raise
    except _OPERATIONAL as error:
        # What failed may be the connection itself: the next call starts with a fresh one.
        engine.dispose()
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> StoreUnavailableError:
    reason = error.orig if isinstance(error, DBAPIError) else error
    return StoreUnavailableError(f"the database cannot be used now: {reason}")


def _make_file(path: Path) -> None:
    """Makes the file for its owner alone; SQLite gives its side files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _configure_writer(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The journal mode is a property of the file and stays; the others are of the connection.
    _configure(connection, "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


def _configure_reader(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    _configure(connection, "synchronous = FULL", "foreign_keys = ON", "query_only = ON")


def _configure(connection: DBAPIConnection, *pragmas: str) -> None:
    # Without this the driver begins transactions by itself, deferred and for some statements only.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()
