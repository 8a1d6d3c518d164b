"""Looks out for what makes it senseless to go on waiting for a client: it left, or the bridge stops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from http_bridge.errors import HttpError
from runtime.errors import ErrorCode

if TYPE_CHECKING:
    from starlette.requests import Request

# An acceptance is on disk within some milliseconds; a client that leaves meanwhile is noticed when it is late.
_AT_ONCE_S = 0.1


class Lookout:
    """Cancels what the asyncio task that made it waits for, once there is a reason; `close` ends it.

    Most waits are over at once. Only for one that is held is it worth the cost to look, so it begins late; and what is waited for gets no
    task of its own, but is cancelled through its waiter, as `asyncio.timeout` does it.
    """

    def __init__(self, request: Request, stopping: asyncio.Event, *, after_s: float = _AT_ONCE_S) -> None:
        """For a request whose body is read: what comes next from its connection is the news that the client left."""
        waiter = asyncio.current_task()
        assert waiter is not None  # noqa: S101 - for the type checker: a coroutine runs in a task
        self._waiter = waiter
        self._cancels_before = waiter.cancelling()
        self._request = request
        self._stopping = stopping
        self._reason: HttpError | None = None
        self._is_closed = False
        self._watches: tuple[asyncio.Task[object], ...] = ()
        self._timer = asyncio.get_running_loop().call_later(after_s, self._begin)

    def raise_reason(self) -> None:
        """For a waiter that was cancelled: raises why, if it was this that did it and nobody else wants the waiter to end."""
        reason, self._reason = self._reason, None
        if reason is not None and self._waiter.uncancel() <= self._cancels_before:
            raise reason from None

    async def close(self) -> None:
        """The wait is over."""
        self._is_closed = True
        self._timer.cancel()
        if self._watches:
            for watch in self._watches:
                watch.cancel()
            await asyncio.gather(*self._watches, return_exceptions=True)
        if self._reason is not None:
            # The answer came in spite of it, and wins.
            self._reason = None
            self._waiter.uncancel()

    def _begin(self) -> None:
        gone = asyncio.create_task(_until_gone(self._request), name="watch-client")
        stopping = asyncio.create_task(self._stopping.wait(), name="watch-stop")
        self._watches = (gone, stopping)
        for watch in self._watches:
            watch.add_done_callback(self._noticed)

    def _noticed(self, watch: asyncio.Task[object]) -> None:
        if self._is_closed or self._reason is not None or watch.cancelled():
            return
        if self._stopping.is_set():
            self._reason = HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The server is stopping.")
        else:
            self._reason = HttpError("client_gone", "The client left before its request was accepted.")
        self._waiter.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
