"""Removes objects that no task needs any more, in the background; what cannot be removed is logged and costs only space."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import obstore
import structlog

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = structlog.get_logger()

_PATIENCE_S = 60.0


class ObjectSweeper:
    """Owns the removals under way."""

    def __init__(self, objects: ObjectStore) -> None:
        """Nothing to do yet."""
        self._objects = objects
        self._tasks: set[asyncio.Task[None]] = set()

    def discard(self, prefix: str) -> None:
        """Removes every object under the prefix, soon."""
        task = asyncio.create_task(self._discard(prefix), name=f"sweep-{prefix}")
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

    async def _discard(self, prefix: str) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                found = await obstore.list(self._objects, prefix).collect_async()
                if found:
                    await obstore.delete_async(self._objects, [item["path"] for item in found])
        except (OSError, TimeoutError, obstore.exceptions.BaseError) as error:
            _log.warning("objects_not_removed", prefix=prefix, error=repr(error))
