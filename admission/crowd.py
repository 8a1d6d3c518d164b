"""Whether the journal waits for more decisions before it writes a batch, and for how many (ADR 20).

Under load, decisions come one by one while the writer is free again after each few: a batch costs its transaction whatever is in it, and
answers that leave together cost the server and its callers half of those that leave one by one (benchmarks/admission_speed.py). So after a
batch of so many decisions the writer waits until as many have come, as callers that have their answers come back together: for so long for
each of them. A wait that is too short is worse than none: batches get smaller, so that callers come back later still. Whether there are
more callers is tried by waiting for a few more, up to so many: again at once where they came, else after so many batches. Whoever comes
after a pause has no crowd behind him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LEAST = 4
"""Decisions of a batch that were a crowd: after fewer nobody is waited for."""
_EACH_S = 0.0004
_ENOUGH = 48
_TRY_AGAIN = 16
_PAUSE_S = 0.05


class Crowd:
    """Belongs to one journal."""

    def __init__(self) -> None:
        """Nobody came yet."""
        self._wanted = 0
        self._are_all_here = False
        # For the next so many batches it is not tried whether more come than last time.
        self._not_more = 0
        self._enough = asyncio.Event()

    def came(self, waiting: int) -> None:
        """Another decision came; so many wait now."""
        if waiting >= self._wanted:
            self._enough.set()

    def all_here(self) -> None:
        """Their caller has gathered what waits: nobody else is waited for this time."""
        self._are_all_here = True
        self._enough.set()

    async def gathered(self, last: int, idle_s: float, waiting: Callable[[], int]) -> None:
        """Returns when a batch should be written: at once, unless the last one had many decisions a moment ago.

        Args:
            last: decisions of the last batch.
            idle_s: how long after it the first one of this batch came.
            waiting: says how many decisions wait.
        """
        if last >= LEAST and not self._are_all_here and idle_s < _PAUSE_S:
            await self._gather(last, waiting)
        self._are_all_here = False

    async def _gather(self, last: int, waiting: Callable[[], int]) -> None:
        is_trying = self._not_more == 0
        self._wanted = min(_ENOUGH, last + last // 4 + 1 if is_trying else last)
        if waiting() < self._wanted:
            self._enough.clear()
            timer = asyncio.get_running_loop().call_later(self._wanted * _EACH_S, self._enough.set)
            try:
                await self._enough.wait()
            finally:
                timer.cancel()
        if is_trying and waiting() < self._wanted:
            self._not_more = _TRY_AGAIN
        elif not is_trying:
            self._not_more -= 1
