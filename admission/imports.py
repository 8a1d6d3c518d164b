"""Imports under way: each alone with its task id, its files under a prefix of its own, and nothing left of one that did not end well.

Law: a mark in the object store comes before the first file, and goes when the task is written or the files are gone. So whatever a crash
leaves is found by its mark, without a look at the results of every other task.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import obstore
import structlog
from obstore.exceptions import BaseError

from admission.core.tasks import Task, TaskId
from admission.object_sweeper import ObjectSweeper, remove_all
from admission.store.port import Store, StoreUnavailableError
from runtime.objects import IMPORT_PREFIX, attempt_prefix

if TYPE_CHECKING:
    from obstore import AsyncWritableFile
    from obstore.store import ObjectStore

_log = structlog.get_logger()

ATTEMPT = 1
"""Of every imported task: somebody rendered it once."""

# Each holds up to three buffers in memory.
_AT_ONCE = 4
_MARK = re.compile(rf"{IMPORT_PREFIX}([0-9A-Za-z_-]+)/([0-9a-f]{{16}})")
_BUFFER_BYTES = 8 * 1024 * 1024
_UPLOADS_AT_ONCE = 2
# For one answer of the object store.
_OBJECTS_S = 60.0


@dataclass(slots=True, eq=False)
class _Turn:
    """The imports of one id that run or wait."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Landing:
    """One import of one task. Every method may raise StoreUnavailableError."""

    def __init__(self, task_id: TaskId, objects: ObjectStore, put: Callable[[Task], Awaitable[None]]) -> None:
        """Nothing is written yet; `put` makes the task durable."""
        name = secrets.token_hex(8)
        self.prefix = f"{attempt_prefix(task_id, ATTEMPT)}{name}/"
        self.mark = f"{IMPORT_PREFIX}{task_id}/{name}"
        self.committing: asyncio.Task[None] | None = None
        self._objects = objects
        self._put = put
        self._files: dict[str, AsyncWritableFile] = {}

    def key(self, name: str) -> str:
        """Of a file in the object store."""
        return self.prefix + name

    async def write(self, name: str, chunk: bytes) -> None:
        """Adds to a file of this name."""
        with _unavailable():
            if name not in self._files:
                self._files[name] = obstore.open_writer_async(
                    self._objects, self.key(name), buffer_size=_BUFFER_BYTES, max_concurrency=_UPLOADS_AT_ONCE
                )
            async with asyncio.timeout(_OBJECTS_S):
                await self._files[name].write(chunk)

    async def close(self) -> None:
        """Ends every file: they are stored from then on."""
        async with AsyncExitStack() as closing:
            # Every one is closed, whatever becomes of the others.
            while self._files:
                closing.push_async_callback(_close, self._files.popitem()[1])

    async def commit(self, task: Task) -> None:
        """Stores the files, then the task; returns when that is on disk. It goes on when the caller is cancelled."""
        self.committing = asyncio.create_task(self._commit(task), name=f"import-{task.task_id}")
        await asyncio.shield(self.committing)

    async def _commit(self, task: Task) -> None:
        await self.close()
        await self._put(task)


class Imports:
    """Owns the imports under way and their endings; belongs to one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        objects: ObjectStore,
        sweeper: ObjectSweeper,
        is_known: Callable[[TaskId], Awaitable[bool]],
        put: Callable[[Task], Awaitable[None]],
    ) -> None:
        """`is_known` looks behind everything that is decided already; `put` makes an ended task durable, or raises."""
        self._store = store
        self._objects = objects
        self._is_known = is_known
        self._put = put
        self.sweeper = sweeper
        self._turns: dict[TaskId, _Turn] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._marks: set[str] = set()
        self._endings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def importing(self, task_id: TaskId) -> AsyncIterator[Landing | None]:
        """The import of a task under this id, or None when there is one. Waits for another import of the same id, and for a place.

        Left without a commit, nothing stays of its files.
        """
        async with self._turn(task_id):
            if await self._is_known(task_id):
                yield None
                return
            async with self._places, self._landing(task_id) as landing:
                yield landing

    async def remove_broken(self) -> int:
        """Removes the files of imports that a process which died left unfinished; returns how many imports. Raises as the stores do."""
        async with asyncio.timeout(_OBJECTS_S):
            found = await obstore.list(self._objects, IMPORT_PREFIX).collect_async()
        removed = 0
        for mark in [item["path"] for item in found]:
            parts = _MARK.fullmatch(mark)
            # Asked now, not before the listing: one that has ended meanwhile is in the store or has no files.
            if parts is None or mark in self._marks:
                continue
            task_id, name = parts.groups()
            prefix = f"{attempt_prefix(task_id, ATTEMPT)}{name}/"
            task = await self._store.task(TaskId(task_id))
            is_kept = task is not None and task.result is not None and task.result.video_key.startswith(prefix)
            async with asyncio.timeout(_OBJECTS_S):
                if not is_kept:
                    await remove_all(self._objects, prefix)
                    removed += 1
                await obstore.delete_async(self._objects, [mark])
        if removed:
            _log.info("broken_imports_removed", count=removed)
        return removed

    async def close(self) -> None:
        """Ends what is under way; what is not removed by then has its mark."""
        for ending in self._endings:
            ending.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)

    @asynccontextmanager
    async def _landing(self, task_id: TaskId) -> AsyncIterator[Landing]:
        # A task of this id that was just deleted: what removes its files must not find the new ones.
        await self.sweeper.idle()
        landing = Landing(task_id, self._objects, self._put)
        self._marks.add(landing.mark)
        try:
            await self._set(landing.mark)
            yield landing
        finally:
            ending = asyncio.create_task(self._end(landing), name=f"end-of-{landing.mark}")
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.shield(ending)

    @asynccontextmanager
    async def _turn(self, task_id: TaskId) -> AsyncIterator[None]:
        """Alone with the id, in the order of asking."""
        turn = self._turns.setdefault(task_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[task_id]

    async def _set(self, mark: str) -> None:
        with _unavailable():
            async with asyncio.timeout(_OBJECTS_S):
                await obstore.put_async(self._objects, mark, b"")

    async def _end(self, landing: Landing) -> None:
        """Removes the files unless the task has them. Where that is uncertain or fails, the mark stays for `remove_broken`."""
        try:
            if landing.committing is None:
                await self._clear(landing)
            elif isinstance((await asyncio.gather(landing.committing, return_exceptions=True))[0], BaseException):
                # Whoever waits is told. A write that seems to have failed may be on the disk all the same.
                return
            async with asyncio.timeout(_OBJECTS_S):
                await obstore.delete_async(self._objects, [landing.mark])
        except (StoreUnavailableError, BaseError, OSError) as error:
            _log.warning("import_not_ended", mark=landing.mark, error=repr(error))
        finally:
            self._marks.discard(landing.mark)

    async def _clear(self, landing: Landing) -> None:
        # Ended first, not dropped: the object store would keep the parts of a file that never ends, where nobody sees them.
        try:
            await landing.close()
        finally:
            async with asyncio.timeout(_OBJECTS_S):
                await remove_all(self._objects, landing.prefix)


async def _close(file: AsyncWritableFile) -> None:
    with _unavailable():
        async with asyncio.timeout(_OBJECTS_S):
            await file.close()


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        # TimeoutError is an OSError.
        msg = f"the object store does not take a file: {error!r}"
        raise StoreUnavailableError(msg) from error
