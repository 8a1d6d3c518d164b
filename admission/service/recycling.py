"""The end of a watching stream: none lives for ever, so that nothing which a long one may leak adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from runtime.errors import ErrorCode, ServiceError

STREAM_LIFE_S = 1800.0
"""Every watching stream ends after this time; its reader goes on with a new one."""

_T = TypeVar("_T")


class StreamEnd:
    """When one stream ends: so many seconds after this was made."""

    def __init__(self, life_s: float) -> None:
        """The stream begins now."""
        self._ends_s = asyncio.get_running_loop().time() + life_s

    async def before(self, waiting: Awaitable[_T]) -> _T:
        """What is waited for; raises `stream_recycled`, having cancelled it, when the stream ends before it comes."""
        # What comes without a pause is never interrupted by a timeout: the stream then ends at the next call of this.
        if asyncio.get_running_loop().time() >= self._ends_s:
            if asyncio.iscoroutine(waiting):
                waiting.close()
            raise _recycled()
        timeout = asyncio.timeout_at(self._ends_s)
        try:
            async with timeout:
                return await waiting
        except TimeoutError:
            if timeout.expired():
                raise _recycled() from None
            raise


def _recycled() -> ServiceError:
    return ServiceError(
        code=ErrorCode.STREAM_RECYCLED, message="This stream has lived long enough; go on after the last sequence.", retry_after_s=0.0
    )
