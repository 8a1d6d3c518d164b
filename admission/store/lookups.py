"""Tasks by their idempotency keys: nearly every submission asks, so those that ask while one look is under way share the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from sqlalchemy import Connection, select

from admission.core.tasks import Task
from admission.store import rows
from admission.store.database import Backend, driver_cursor
from admission.store.port import StoreUnavailableError
from admission.store.schema import TASKS

Key: TypeAlias = tuple[str, str]
"""An owner and its request id."""
Found: TypeAlias = dict[Key, Task]
Asked: TypeAlias = dict[Key, list[asyncio.Future[Task | None]]]

# As for inserts: powers of two, so that any number of keys takes few statements of few shapes.
_SIZES = tuple(2**power for power in range(7))
_LARGEST = _SIZES[-1]

_FIND = (
    "WITH asked (owner, request_id) AS (VALUES {values}) SELECT tasks.task_id FROM asked CROSS JOIN tasks"
    " WHERE tasks.owner = asked.owner AND tasks.request_id = asked.request_id AND tasks.request_id IS NOT NULL"
)

_CLOSING = "the store is being closed"


class RequestLookups:
    """Belongs to one event loop, and to who closes it. One look is under way at a time; a thread's turn costs more than the look itself."""

    def __init__(self, backend: Backend, read: Callable[[Callable[[Connection], Found]], Awaitable[Found]]) -> None:
        """`read` runs work in a reader's transaction."""
        self._read = read
        self._sql = {size: backend.native(_FIND.format(values=", ".join(["(?, ?)"] * size))) for size in _SIZES}
        self._waiting: Asked = {}
        self._looking: asyncio.Task[None] | None = None

    async def find(self, key: Key) -> Task | None:
        """The task of this key; what was committed before the call is seen."""
        future: asyncio.Future[Task | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="store-lookups")
        return await future

    async def close(self) -> None:
        """Ends the look that is under way; who waits is told that the store closes. A later `find` begins anew."""
        while self._looking is not None and not self._looking.done():
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        # Those for the next look; and a task that is cancelled before its first step runs none of its code.
        asked, self._waiting = self._waiting, {}
        _fail(asked, StoreUnavailableError(_CLOSING))

    async def _look(self) -> None:
        """Goes on until nobody waits. Every waiter is answered, whatever happens."""
        while self._waiting:
            asked, self._waiting = self._waiting, {}
            await self._answer(asked)

    async def _answer(self, asked: Asked) -> None:
        keys = tuple(asked)
        try:
            found = await self._read(lambda connection: self._find(connection, keys))
        except Exception as error:
            _fail(asked, error)
        except BaseException:
            _fail(asked, StoreUnavailableError(_CLOSING))
            raise
        else:
            for key, futures in asked.items():
                for future in futures:
                    if not future.done():
                        future.set_result(found.get(key))

    def _find(self, connection: Connection, keys: Sequence[Key]) -> Found:
        cursor = driver_cursor(connection)
        ids: list[str] = []
        for first in range(0, len(keys), _LARGEST):
            part = list(keys[first : first + _LARGEST])
            size = 1 << (len(part) - 1).bit_length()
            # One of them again in every place that is left.
            part += part[-1:] * (size - len(part))
            cursor.execute(self._sql[size], [value for key in part for value in key])
            ids += [row[0] for row in cursor.fetchall()]
        if not ids:
            return {}
        tasks = [rows.task_of(row) for row in connection.execute(select(TASKS).where(TASKS.c.task_id.in_(ids))).all()]
        return {(task.owner, task.request_id): task for task in tasks}


def _fail(asked: Asked, error: Exception) -> None:
    for futures in asked.values():
        for future in futures:
            if not future.done():
                future.set_exception(error)
