"""Turns an image task's status, asked for again and again, into a stream of its changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING

from http_bridge.errors import HttpError
from runtime.errors import ErrorCode

if TYPE_CHECKING:
    from http_bridge.schemas import StatusReply

POLL_S = 3.0
"""As clients poll without a stream."""

# A task that does not move is asked for less often, up to this.
_SLOWEST_S = 10.0
_SLOWER = 1.25
# While the upstream does not answer.
_AWAY_SLOWEST_S = 30.0
_AWAY_SLOWER = 2.0

ENDED = frozenset({"done", "failed"})
"""Statuses that no task leaves."""

Sleep = Callable[[float], Awaitable[None]]

Look = Callable[[], Awaitable["StatusReply"]]
"""Asks for the status of one task."""


async def watch(look: Look, *, sleep: Sleep = asyncio.sleep) -> AsyncGenerator[StatusReply, None]:
    """The status now, then every change that a poll sees, to the terminal one, which is the last.

    An upstream that goes away meanwhile is waited for, for as long as the caller listens.

    Raises:
        HttpError, ServiceError: as the first look; later only what waiting does not change, such as
            `task_not_found` for a task that was deleted.
    """
    told = await look()
    yield told
    wait_s = POLL_S
    while told.status not in ENDED:
        await sleep(wait_s)
        try:
            found = await look()
        except HttpError as error:
            if error.code not in (ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.RATE_LIMITED, ErrorCode.QUEUE_OVERLOADED):
                raise
            wait_s = min(_AWAY_SLOWEST_S, wait_s * _AWAY_SLOWER)
            continue
        if found == told:
            wait_s = min(_SLOWEST_S, max(POLL_S, wait_s * _SLOWER))
            continue
        told, wait_s = found, POLL_S
        yield told
