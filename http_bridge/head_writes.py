"""Writes the head of a reply and the first piece of its body in one go: one call of the system, and one wake-up of whoever reads."""

from __future__ import annotations

import asyncio
from typing import cast


class HeadWithBody:
    """Stands between one reply and its connection: what is written first waits for what the same turn of the event loop writes next.

    It has what uvicorn's `RequestResponseCycle` uses of a transport. Law: nothing waits beyond the turn in which it was written.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """In front of this connection."""
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._is_begun = False

    def as_transport(self) -> asyncio.Transport:
        """For uvicorn's annotation."""
        return cast("asyncio.Transport", self)

    def write(self, data: bytes) -> None:
        """Writes; of a reply that begins, with what follows at once."""
        if not self._is_begun:
            self._is_begun, self._head = True, data
            self._loop.call_soon(self._flush)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Closes the connection behind what was written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Of the connection."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        # The connection may have ended meanwhile.
        if head and not self._transport.is_closing():
            self._transport.write(head)
