"""Random task ids and seeds, drawn from the system in large pieces: a draw for each request would cost more than the decision about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.clock import Clock

_PIECE_BYTES = 8192
_TIME_BYTES = 6
_ID_BYTES = 10
_SEED_BYTES = 4


class Draws:
    """Belongs to one event loop. What was drawn is used once."""

    def __init__(self, clock: Clock) -> None:
        """Nothing drawn yet."""
        self._clock = clock
        self._drawn = b""
        self._used = 0

    def task_id(self) -> str:
        """32 lower-case hex digits: the time in milliseconds, then 80 bits of the system's randomness, so unguessable.

        Ids that come one after another lie side by side in the store's indexes: a commit of 64 of them writes a few pages, not 64.
        """
        return (int(self._clock.now().utc.timestamp() * 1000).to_bytes(_TIME_BYTES, "big") + self._bytes(_ID_BYTES)).hex()

    def seed(self) -> int:
        """0 to 2**31 - 1."""
        return int.from_bytes(self._bytes(_SEED_BYTES), "big") >> 1

    def _bytes(self, count: int) -> bytes:
        if self._used + count > len(self._drawn):
            self._drawn, self._used = os.urandom(_PIECE_BYTES), 0
        piece = self._drawn[self._used : self._used + count]
        self._used += count
        return piece
