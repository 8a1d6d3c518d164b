"""Removes objects that no task needs any more, in the background; what cannot be removed is tried again when the store is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import obstore
import structlog

from admission.store.port import StoreUnavailableError
from runtime.objects import reason_of, remove_unfinished

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = structlog.get_logger()

_PATIENCE_S = 60.0
# What could not be removed and is remembered; beyond it, objects cost space.
_MOST_FAILED = 10_000

_Unless = Callable[[], Awaitable[bool]]


async def remove_all(objects: ObjectStore, prefix: str) -> None:
    """Removes everything under the prefix, what is only half written too. Raises OSError or BaseError; the caller bounds the time."""
    found = await obstore.list(objects, prefix).collect_async()
    if found:
        await obstore.delete_async(objects, [item["path"] for item in found])
    await asyncio.to_thread(remove_unfinished, objects, prefix)


class ObjectSweeper:
    """Owns the removals under way."""

    def __init__(self, objects: ObjectStore) -> None:
        """Nothing to do yet."""
        self._objects = objects
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: dict[str, _Unless | None] = {}

    def discard(self, prefix: str, unless: _Unless | None = None) -> None:
        """Removes every object under the prefix, soon; `unless` is asked right before, and a failure of it means yes."""
        task = asyncio.create_task(self._discard(prefix, unless), name=f"sweep-{prefix}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def idle(self) -> None:
        """Returns when nothing is being removed."""
        while self._tasks:
            # A removal that goes well may start another.
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Ends what is under way."""
        self._failed.clear()
        for task in self._tasks:
            task.cancel()
        await self.idle()

    async def _discard(self, prefix: str, unless: _Unless | None) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if unless is not None and await unless():
                    return
                await remove_all(self._objects, prefix)
        except StoreUnavailableError as error:
            _log.warning("objects_not_removed", prefix=prefix, reason=str(error))
            self._remember(prefix, unless)
        except (OSError, obstore.exceptions.BaseError) as error:
            # TimeoutError is an OSError.
            _log.warning("objects_not_removed", prefix=prefix, reason=reason_of(error))
            self._remember(prefix, unless)
        else:
            self._retry()

    def _remember(self, prefix: str, unless: _Unless | None) -> None:
        if len(self._failed) < _MOST_FAILED:
            self._failed[prefix] = unless

    def _retry(self) -> None:
        """A removal went well: one that did not is worth another try, and if that goes well, the next."""
        if self._failed:
            self.discard(*self._failed.popitem())
