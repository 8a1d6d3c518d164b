"""Where a batch is written: in the database's own thread, or, once many come together, in a process of its own; and what to do in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from admission.store.batches import BatchWriter, Rows, rows_of
from admission.store.database import Backend, CommitInDoubtError, ConflictError, Database, driver_cursor
from admission.store.port import Batch, RequestTakenError, StaleEpochError, StoreUnavailableError
from admission.store.writer_process import NotPlainError, WriterLostError, WriterProcess

# How long a write asks a database that went away during a commit whether it was stored.
IN_DOUBT_S = 15.0
RETRY_S = 0.2
# A batch of so many events shows that decisions come faster than commits, so many batches in a second that there is always one under way:
# then the process is worth its memory.
CROWD = 8
BUSY = 30
# One that was lost, or did not start, is not started again sooner: meanwhile batches are written here.
RESTART_S = 10.0
# What else writes waits so long for its turn between batches. After that it tries its luck: the process may be one that never answers.
TURN_S = 5.0

T = TypeVar("T")

_log = structlog.get_logger()


class Commits:
    """Writes batches, one after another; owns the writer's process.

    Whether that is there, is lost or never starts, the answers are the same.
    """

    def __init__(self, database: Database, backend: Backend, batches: BatchWriter, process: Callable[[], WriterProcess] | None) -> None:
        """`process` makes one that is not started yet; None: everything is written in the database's thread."""
        self._database = database
        self._backend = backend
        self._batches = batches
        self._make = process
        # So that a batch's numbers are known before the next one is begun, and what else writes comes between two.
        self._turn = asyncio.Lock()
        self._process: WriterProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._not_before_s = 0.0
        # Since when batches are counted, and how many there were.
        self._counted_s = 0.0
        self._batches_counted = 0
        self._in_doubt: int | None = None
        # The newest event, once this one has written: from then on nobody else numbers any.
        self._newest: int | None = None

    async def close(self) -> None:
        """Ends the process, after what it was given. May be called twice."""
        self._make = None
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._end_process()

    async def write(self, epoch: int, batch: Batch) -> int:
        """See `Store.write`."""
        rows = rows_of(batch, self._backend.moment)
        async with self._turn:
            try:
                newest = await self._written(epoch, rows)
            except ConflictError as error:
                raise RequestTakenError(str(error)) from None
            except asyncio.CancelledError:
                # It may be stored yet, and its number is not known here.
                self._newest = None
                raise
            self._in_doubt, self._newest = None, newest
        if self._make is not None and self._process is None and self._is_much(rows):
            self._start_process(self._make)
        return newest

    async def beside(self, work: Callable[[Connection], T]) -> T:
        """Runs what else writes, in the database's thread. SQLite lets one of several write and gives nobody a turn: beside a process that
        writes all the time, the thread would find a gap only by chance."""
        if self._process is None:
            return await self._database.write(work)
        try:
            async with asyncio.timeout(TURN_S):
                await self._turn.acquire()
        except TimeoutError:
            return await self._database.write(work)
        try:
            return await self._database.write(work)
        finally:
            self._turn.release()

    async def _written(self, epoch: int, rows: Rows) -> int:
        process, newest = self._process, self._newest
        if process is None or newest is None:
            if process is not None:
                # What nobody waits for any more comes first all the same.
                await process.settled()
            return await self._written_here(epoch, rows)
        try:
            return await process.write(epoch, rows, in_doubt=self._in_doubt)
        except NotPlainError:
            return await self._written_here(epoch, rows)
        except WriterLostError as error:
            _log.warning("store_writer_lost", error=str(error))
            await self._end_process()
            return await self._written_after_all(epoch, rows, newest)

    async def _written_after_all(self, epoch: int, rows: Rows, newest: int) -> int:
        """The process was lost with the batch. What it held of the database is free, so the database tells."""
        drawn = newest + len(rows.events)
        if rows.events:
            doubt = CommitInDoubtError("the writer's process was lost during a commit")
            found = await self._patiently(lambda connection: self._batches.guard(driver_cursor(connection), epoch), doubt, drawn)
            if found == drawn:
                return drawn
            if found != newest:
                msg = f"the newest event is {found}, not {newest} or {drawn}: somebody else wrote, start again"
                raise StaleEpochError(msg)
        # Without events, storing it twice is storing it once.
        return await self._written_here(epoch, rows)

    async def _written_here(self, epoch: int, rows: Rows) -> int:
        drawn = 0

        def work(connection: Connection) -> None:
            nonlocal drawn
            drawn = self._batches.write(driver_cursor(connection), epoch, rows, in_doubt=self._in_doubt)

        try:
            await self._database.write(work)
        except CommitInDoubtError as error:
            if not rows.events:
                # Storing it twice is storing it once.
                await self._patiently(work, error)
            elif await self._patiently(lambda connection: self._batches.guard(driver_cursor(connection), epoch), error, drawn) != drawn:
                raise
        return drawn

    async def _patiently(self, work: Callable[[Connection], T], doubt: CommitInDoubtError, drawn: int | None = None) -> T:
        """Runs it when the database is there again. If it stays away, the commit with these numbers stays in doubt until the next write."""
        deadline_s = asyncio.get_running_loop().time() + IN_DOUBT_S
        while True:
            try:
                return await self._database.write(work)
            except StoreUnavailableError:
                if asyncio.get_running_loop().time() > deadline_s:
                    self._in_doubt = drawn
                    raise doubt from None
                await asyncio.sleep(RETRY_S)

    def _is_much(self, rows: Rows) -> bool:
        """Whether the loop and the thread get into each other's way."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._counted_s >= 1.0:
            self._counted_s, self._batches_counted = now_s, 0
        self._batches_counted += 1
        return len(rows.events) >= CROWD or self._batches_counted >= BUSY

    def _start_process(self, make: Callable[[], WriterProcess]) -> None:
        """Begins to start one, unless that is under way or failed a moment ago; batches go on here meanwhile."""
        now_s = asyncio.get_running_loop().time()
        if (self._starting is None or self._starting.done()) and now_s >= self._not_before_s:
            self._not_before_s = now_s + RESTART_S
            self._starting = asyncio.create_task(self._started(make()), name="store-writer-start")

    async def _started(self, process: WriterProcess) -> None:
        try:
            await process.start()
        except WriterLostError as error:
            _log.warning("store_writer_not_started", error=str(error), cause=str(error.__cause__))
        else:
            self._process = process

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()
