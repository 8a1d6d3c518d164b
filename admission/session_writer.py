"""Writes new generation sessions: those that come while one write is under way go together in the next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from admission.store.port import StoreUnavailableError

if TYPE_CHECKING:
    from admission.store.access_port import AccessStore, Session

_LARGEST = 256
"""Sessions of one transaction."""


class SessionWriter:
    """Belongs to one event loop; `close` ends it. At most one transaction is handed to the store at a time, however many ask.

    So acceptances, which share the store's writer, wait for one small commit of these at the worst.
    """

    def __init__(self, store: AccessStore) -> None:
        """Nothing is under way."""
        self._store = store
        self._waiting: list[tuple[Session, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def add(self, session: Session) -> None:
        """Returns when the session is on disk. Raises StoreUnavailableError."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((session, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="session-writer")
        await future

    async def close(self) -> None:
        """Ends the write that is under way; who waits is told that the store closes. May be called twice."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        # A task that is cancelled before its first step runs none of its code.
        left, self._waiting = self._waiting, []
        _fail(left, StoreUnavailableError("admission stops"))

    async def _write(self) -> None:
        """Goes on until nobody waits. Every waiter is answered, whatever happens."""
        while self._waiting:
            # Who went away meanwhile needs none.
            self._waiting = [one for one in self._waiting if not one[1].done()]
            group, self._waiting = self._waiting[:_LARGEST], self._waiting[_LARGEST:]
            try:
                await self._store.add_sessions([session for session, _ in group])
            except Exception as error:
                _fail(group, error)
            except BaseException:
                _fail(group, StoreUnavailableError("admission stops"))
                raise
            else:
                for _, future in group:
                    if not future.done():
                        future.set_result(None)


def _fail(group: list[tuple[Session, asyncio.Future[None]]], error: Exception) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)
