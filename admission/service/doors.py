"""Whether calls are let in: not before the state is restored, not once admission stops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from runtime.errors import ErrorCode, ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable

_T = TypeVar("_T")

# A restarted admission serves again within about this long.
_RETRY_AFTER_S = 1.0


class Doors:
    """Shared by all services of one process; belongs to its event loop."""

    def __init__(self) -> None:
        """Nobody is let in yet."""
        self._is_open = False
        self._closed = asyncio.Event()

    def open(self) -> None:
        """The state is restored: lets calls in."""
        self._is_open = True

    def close(self) -> None:
        """Admission stops: lets nobody in any more and ends every wait in `hold`."""
        self._is_open = False
        self._closed.set()

    def check(self) -> None:
        """Raises `service_unavailable` unless calls are let in."""
        if not self._is_open:
            raise self._refusal()

    async def hold(self, waiting: Awaitable[_T], *, name: str) -> _T:
        """Awaits something that may take long, in a task of that name; raises `service_unavailable` when the doors close first.

        What waits is cancelled, and has ended, when this raises or is cancelled itself.
        """
        task = asyncio.create_task(_result_of(waiting), name=name)
        closed = asyncio.create_task(self._closed.wait(), name=f"{name}-doors")
        try:
            await asyncio.wait((task, closed), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
                if task.cancelled():
                    raise self._refusal()
            return task.result()
        finally:
            for one in (task, closed):
                one.cancel()
            await asyncio.gather(task, closed, return_exceptions=True)

    def _refusal(self) -> ServiceError:
        state = "stopping" if self._closed.is_set() else "starting"
        return ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message=f"Admission is {state}.", retry_after_s=_RETRY_AFTER_S)


async def _result_of(waiting: Awaitable[_T]) -> _T:
    return await waiting
