"""Removes what is too old to keep: ended tasks with their files, events of no task, unused input images, audit entries, broken imports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import obstore
import structlog

from admission.core.tasks import TaskState
from admission.object_sweeper import ObjectSweeper
from admission.store.port import Pruned, Retention, Store, StoreUnavailableError
from runtime.objects import INPUT_PREFIX, task_prefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from obstore import ObjectMeta
    from obstore.store import ObjectStore

    from admission.imports import Imports
    from admission.store.access_port import AccessStore
    from runtime.clock import Clock

_log = structlog.get_logger()

_ROUND_S = 900.0
"""Between two looks at what is too old."""
_PAUSE_S = 0.2
"""Between two removals: acceptances go before them."""
_INPUT_AGE = timedelta(hours=24)
"""An image is uploaded before its task is submitted: so long nobody has to have used it."""
_INPUTS_AT_ONCE = 500
AUDIT_ENTRIES = 50_000
"""Entries of calls that were let in, and as many of others, are kept at most: so a flood of one pushes out none of the other."""
_AUDIT_AT_ONCE = 500
_OBJECTS_S = 60.0
"""For one answer of the object store: a part of a listing, or one removal."""
_STORE_S = 60.0
"""For one answer of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long things are kept; None: for ever.

    Attributes:
        done: finished tasks and their videos, from their last change.
        failed: failed and cancelled tasks.
        events: events of lanes and models, which belong to no task. A task's own events go with it.
        audit: entries of the audit log. Of those that were let in, and of the others, the newest AUDIT_ENTRIES are kept at most.
    """

    done: timedelta | None
    failed: timedelta | None
    events: timedelta | None
    audit: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InWork:
    """What no stored task names yet.

    Attributes:
        used: names the input images of requests that are held.
        imports: those that broke off are removed too, and none begins while files of the same task are being removed. None: there are none.
    """

    used: Callable[[], frozenset[str]]
    imports: Imports | None = None


class Keeper:
    """Looks every quarter of an hour. Whoever runs it ends it by cancelling."""

    def __init__(self, *, store: Store, access: AccessStore, objects: ObjectStore, clock: Clock, keep: Keep, in_work: InWork) -> None:
        """Removes what is neither stored nor in work."""
        self._store = store
        self._access = access
        self._objects = objects
        self._sweeper = ObjectSweeper(objects) if in_work.imports is None else in_work.imports.sweeper
        self._imports = in_work.imports
        self._clock = clock
        self._keep = keep
        self._used = in_work.used
        self._unused_before: frozenset[str] = frozenset()

    async def run(self, epoch: int) -> None:
        """Removes until cancelled. Raises StaleEpochError when another admission rules; what cannot be removed now is tried again."""
        try:
            while True:
                try:
                    await self.remove_old(epoch)
                    await self.remove_old_audit()
                    await self.remove_unused_inputs()
                    if self._imports is not None:
                        await self._imports.remove_broken()
                except (StoreUnavailableError, OSError, obstore.exceptions.BaseError) as error:
                    _log.warning("nothing_removed", error=repr(error))
                await asyncio.sleep(_ROUND_S)
        finally:
            await self._sweeper.close()

    async def remove_old(self, epoch: int) -> int:
        """Removes tasks and events that are too old; returns how many tasks."""
        now, tasks = self._clock.now().utc, 0
        while (pruned := await self._store.prune(epoch, self._retention(now))) != Pruned():
            for task_id in pruned.task_ids:
                self._sweeper.discard(task_prefix(task_id))
            await self._sweeper.idle()
            tasks += len(pruned.task_ids)
            _log.info("old_removed", tasks=len(pruned.task_ids), events=pruned.events)
            await asyncio.sleep(_PAUSE_S)
        return tasks

    async def remove_old_audit(self) -> int:
        """Removes audit entries that are too old or too many; returns how many."""
        age, removed = self._keep.audit, 0
        before = None if age is None else self._clock.now().utc - age
        while count := await self._access.prune_audit(before, keep=AUDIT_ENTRIES, limit=_AUDIT_AT_ONCE):
            removed += count
            await asyncio.sleep(_PAUSE_S)
        if removed:
            _log.info("old_audit_removed", entries=removed)
        return removed

    async def remove_unused_inputs(self) -> int:
        """Removes input images that are a day old and that no task had at this look and at the one before; returns how many."""
        oldest = self._clock.now().utc - _INPUT_AGE
        unused: set[str] = set()
        listing = aiter(obstore.list(self._objects, INPUT_PREFIX, chunk_size=_INPUTS_AT_ONCE))
        while (found := await _next_part(listing)) is not None:
            old = [item["path"] for item in found if item["last_modified"] < oldest]
            async with asyncio.timeout(_STORE_S):
                unused |= await self._store.unused_inputs(old)
        unused -= self._used()
        # Twice unused: a request that came in between the look and the removal would lose its image.
        gone = sorted(unused & self._unused_before)
        self._unused_before = frozenset(unused)
        for start in range(0, len(gone), _INPUTS_AT_ONCE):
            await self._remove(gone[start : start + _INPUTS_AT_ONCE])
        if gone:
            _log.info("inputs_removed", count=len(gone))
        return len(gone)

    async def _remove(self, keys: Sequence[str]) -> None:
        async with asyncio.timeout(_OBJECTS_S):
            await obstore.delete_async(self._objects, keys)

    def _retention(self, now: datetime) -> Retention:
        keep = self._keep
        kept = {TaskState.DONE: keep.done, TaskState.FAILED: keep.failed, TaskState.CANCELLED: keep.failed}
        return Retention(
            tasks_before={state: now - age for state, age in kept.items() if age is not None},
            events_before=None if keep.events is None else now - keep.events,
        )


async def _next_part(listing: AsyncIterator[Sequence[ObjectMeta]]) -> Sequence[ObjectMeta] | None:
    """None at the end. Waited for by itself: the whole listing of a large object store may take very long."""
    async with asyncio.timeout(_OBJECTS_S):
        return await anext(listing, None)
