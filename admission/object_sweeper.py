"""Removes objects that no task needs any more, in the background; what cannot be removed is logged and costs only space."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import obstore
import structlog

from admission.store.port import StoreUnavailableError
from runtime.objects import remove_unfinished

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = structlog.get_logger()

_PATIENCE_S = 60.0


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

    def discard(self, prefix: str, unless: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Removes every object under the prefix, soon; `unless` is asked right before, and a failure of it means yes."""
        task = asyncio.create_task(self._discard(prefix, unless), name=f"sweep-{prefix}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def idle(self) -> None:
        """Returns when nothing is being removed."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Ends what is under way."""
        for task in self._tasks:
            task.cancel()
        await self.idle()

    async def _discard(self, prefix: str, unless: Callable[[], Awaitable[bool]] | None) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if unless is not None and await unless():
                    return
                await remove_all(self._objects, prefix)
        except (OSError, TimeoutError, StoreUnavailableError, obstore.exceptions.BaseError) as error:
            _log.warning("objects_not_removed", prefix=prefix, error=repr(error))
