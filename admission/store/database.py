"""One database and the threads that use it: transactions one after another for writes, beside them for reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError

from admission.store.port import StoreUnavailableError

T = TypeVar("T")

# Reads are short and the file is in the page cache; two threads keep a long gallery page from holding up a status read.
READERS = 2

_REASON = "the database cannot be used now: {}"


class Backend(Protocol):
    """What differs between the engines. SQL that is handed to the driver itself is written with `?` and goes through `native`."""

    def prepare_place(self) -> None:
        """Makes what must be there before the first connection. Blocks; may raise OSError."""
        ...

    def engine(self, *, read_only: bool) -> Engine:
        """A new engine whose connections are ready for one or the other; no pool keeps any."""
        ...

    def before_migration(self, connection: Connection) -> None:
        """Keeps two programs from migrating at once, to the end of the transaction."""
        ...

    def native(self, sql: str) -> str:
        """The statement as the driver wants it."""
        ...

    def moment(self, moment: datetime) -> object:
        """What the driver is given for a time. Raises ValueError for a naive one."""
        ...

    @property
    def guard(self) -> str:
        """A native statement that keeps every other writer away to the end of the transaction and returns the newest epoch and the number
        of the newest event, after so many more (its parameter) were drawn."""
        ...

    def is_lost(self, connection: Connection) -> bool:
        """The connection is gone, as opposed to an answer that said no."""
        ...


class Run(Protocol):
    """Runs work in a transaction of its own; see `Database.write` and `Database.read`."""

    async def __call__(self, work: Callable[[Connection], T], /) -> T:
        """What the work returns."""
        ...


class CommitInDoubtError(StoreUnavailableError):
    """The connection ended while a commit was under way: the transaction is stored or not."""


class ConflictError(Exception):
    """What was to be written breaks a rule of the tables, such as a unique index; nothing was stored."""


def driver_cursor(connection: Connection) -> DBAPICursor:
    """The driver's own cursor, in the connection's transaction: SQLAlchemy's way costs more than a small statement."""
    return connection.connection.cursor()


class Database:
    """Runs work in transactions: writes one after another in a thread of their own, reads beside them on the last committed state.

    A piece of work may be run twice, when the connection was lost before its commit.
    """

    def __init__(self, backend: Backend) -> None:
        """Takes the engine; nothing is touched before `open`."""
        self._backend = backend
        self._writing: _Side | None = None
        self._reading: _Side | None = None
        self._opening = asyncio.Lock()

    async def open(self, prepare: Callable[[Connection], None]) -> None:
        """Makes the place when missing, then runs `prepare` in one transaction. Does nothing when open already.

        Raises:
            StoreUnavailableError: any of it failed; `open` may be called again.
        """
        async with self._opening:
            if self._writing is not None:
                return
            writing = _Side(self._backend, read_only=False, threads=1, name="store-write")
            try:
                await asyncio.to_thread(self._prepare_place)
                await writing.run(lambda connection: self._prepare(connection, prepare))
            except BaseException:
                await asyncio.to_thread(writing.end)
                raise
            self._reading = _Side(self._backend, read_only=True, threads=READERS, name="store-read")
            self._writing = writing

    async def close(self) -> None:
        """Ends what runs, every connection and every thread."""
        async with self._opening:
            sides = [side for side in (self._reading, self._writing) if side is not None]
            self._reading = self._writing = None
            await asyncio.to_thread(_end, sides)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs the work in the writer's thread, alone, in a transaction that is on disk when this returns.

        Raises:
            CommitInDoubtError: the engine is a server that went away during the commit.
            StoreUnavailableError: nothing was stored.
        """
        return await _opened(self._writing).run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs the work in a reader's thread on one consistent state; it cannot write."""
        return await _opened(self._reading).run(work)

    def _prepare_place(self) -> None:
        try:
            self._backend.prepare_place()
        except OSError as error:
            raise _unavailable(error) from error

    def _prepare(self, connection: Connection, prepare: Callable[[Connection], None]) -> None:
        self._backend.before_migration(connection)
        prepare(connection)


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    """Work for a thread, and who waits for it."""

    work: Callable[[Connection], T]
    future: asyncio.Future[T]

    def succeed(self, value: T) -> None:
        self._settle(lambda: self.future.set_result(value))

    def fail(self, error: BaseException) -> None:
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        def unless_done() -> None:
            if not self.future.done():
                settle()

        loop = self.future.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(unless_done)


class _Side:
    """An engine with the only threads that use it, each with a connection of its own.

    A queue and threads of our own, because an executor's future beside asyncio's costs more than a small transaction.
    """

    def __init__(self, backend: Backend, *, read_only: bool, threads: int, name: str) -> None:
        self._backend = backend
        self._engine = backend.engine(read_only=read_only)
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[Connection], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work=work, future=future))
        return await future

    def end(self) -> None:
        """Waits for what was handed in, then closes the connections. Blocks."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._engine.dispose()

    def _serve(self) -> None:
        line = Line(self._backend, self._engine)
        try:
            while (job := self._jobs.get()) is not None:
                if job.future.cancelled():
                    continue
                try:
                    result = line.transact(job.work)
                except BaseException as error:
                    job.fail(error)
                else:
                    job.succeed(result)
                    # Neither the work nor what it returned may live on while the thread waits.
                    del result
                del job
        finally:
            line.hang_up()


class Line:
    """A thread's connection: made when needed, dropped after a failure, since what failed may be the connection itself."""

    def __init__(self, backend: Backend, engine: Engine) -> None:
        driver = engine.dialect.loaded_dbapi
        self._backend = backend
        self._engine = engine
        self._connection: Connection | None = None
        self._is_broken = False
        self._conflicts = (IntegrityError, driver.IntegrityError)
        # These say that the program is wrong, not that the database is away.
        self._bugs = (ProgrammingError, DataError, NotSupportedError, driver.ProgrammingError, driver.DataError, driver.NotSupportedError)
        self._away = (DBAPIError, driver.Error, OSError)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Runs the work in a transaction; once more on a new connection, when the one from before turns out to be lost."""
        while True:
            is_new = self._connection is None
            try:
                return self._attempt(work)
            except self._conflicts as error:
                # The rest of what a server says of it may quote the row.
                raise ConflictError(str(_reason(error)).partition("\n")[0]) from None
            except self._bugs:
                raise
            except self._away as error:
                if not self._drop() or is_new:
                    raise _unavailable(error) from error

    def hang_up(self) -> None:
        """Closes the connection, if there is one."""
        self._drop()

    def _attempt(self, work: Callable[[Connection], T]) -> T:
        if self._is_broken:
            self._drop()
        if self._connection is None:
            self._connection = self._engine.connect()
        transaction = self._connection.begin()
        try:
            result = work(self._connection)
        except BaseException:
            self._roll_back(transaction)
            raise
        try:
            transaction.commit()
        except self._away as error:
            if self._drop():
                raise CommitInDoubtError(_REASON.format(_reason(error))) from error
            raise _unavailable(error) from error
        return result

    def _roll_back(self, transaction: RootTransaction) -> None:
        try:
            transaction.rollback()
        except self._away:
            self._is_broken = True

    def _drop(self) -> bool:
        """Closes the connection; whether it was lost."""
        connection, self._connection = self._connection, None
        is_broken, self._is_broken = self._is_broken, False
        if connection is None:
            return False
        is_lost = is_broken or connection.invalidated or self._backend.is_lost(connection)
        with suppress(*self._away):
            connection.invalidate()
            connection.close()
        return is_lost


def _end(sides: Iterable[_Side]) -> None:
    """All in one go, so that a cancelled `close` leaves none behind."""
    for side in sides:
        side.end()


def _opened(side: _Side | None) -> _Side:
    if side is None:
        msg = "the store is not open"
        raise StoreUnavailableError(msg)
    return side


def _unavailable(error: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(_REASON.format(_reason(error)))


def _reason(error: Exception) -> object:
    return error.orig if isinstance(error, DBAPIError) else error
