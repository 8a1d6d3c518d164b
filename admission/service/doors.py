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
        self._is_closed = False
        # Who waits in `hold`; True once `close` has cancelled it.
        self._waiting: dict[asyncio.Task[object], bool] = {}

    def open(self) -> None:
        """The state is restored: lets calls in."""
        self._is_open = True

    def close(self) -> None:
        """Admission stops: lets nobody in any more and ends every wait in `hold`. May be called twice."""
        self._is_open, self._is_closed = False, True
        for task, is_told in self._waiting.items():
            if not is_told:
                self._waiting[task] = True
                task.cancel()

    def check(self) -> None:
        """Raises `service_unavailable` unless calls are let in."""
        if not self._is_open:
            raise self._refusal()

    async def hold(self, waiting: Awaitable[_T]) -> _T:
        """Awaits something that may take long; raises `service_unavailable` when the doors close first.

        What waits is cancelled, and has ended, when this raises or is cancelled itself. An answer that comes in spite of that is passed on.
        One asyncio task may be in one `hold` at a time.
        """
        # No task of its own: what is awaited is cancelled through the caller, as `asyncio.timeout` does it.
        task = asyncio.current_task()
        if task is None or task in self._waiting:
            msg = "hold needs an asyncio task that is in no other hold"
            raise RuntimeError(msg)
        if self._is_closed:
            if asyncio.iscoroutine(waiting):
                waiting.close()
            raise self._refusal()
        before = task.cancelling()
        self._waiting[task] = False
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._waiting[task] and task.cancelling() - 1 <= before:
                raise self._refusal() from None
            raise
        finally:
            if self._waiting.pop(task):
                task.uncancel()

    def _refusal(self) -> ServiceError:
        state = "stopping" if self._is_closed else "starting"
        return ServiceError(
            code=ErrorCode.SERVICE_UNAVAILABLE,
            message=f"Admission is {state}.",
            metadata={"admission": state},
            retry_after_s=_RETRY_AFTER_S,
        )
