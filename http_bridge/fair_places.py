"""Places that callers share fairly: those who wait are served in turn by who they are, so that nobody's many requests keep others out."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque


class FairPlaces:
    """So many places. Belongs to one event loop.

    Whoever asks is somebody: a name, such as an address. Among those who wait, names take turns, and each name's requests come in their
    order. With a share, one name has at most so many places at a time, also where others are free: what holds a place for long must not
    be able to hold all of them. The empty name has no share.
    """

    def __init__(self, count: int, *, share: int | None = None) -> None:
        """All are free."""
        self._free = count
        self._share = count if share is None else share
        self._held: Counter[str] = Counter()
        # Names that wait, the one whose turn it is first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, name: str) -> None:
        """Returns with a place, which goes to `give_back`; at once, and without giving way, when one may be had."""
        if self._free and name not in self._waiting and self._may_have(name):
            # Who else waits has its share.
            self._hold(name)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                # It came in the very moment in which its caller went.
                self.give_back(name)
            else:
                self._forget(name, turn)
            raise

    def give_back(self, name: str) -> None:
        """The place is free, for whoever's turn it is."""
        self._free += 1
        self._held[name] -= 1
        if not self._held[name]:
            del self._held[name]
        self._serve()

    def _serve(self) -> None:
        for name in tuple(self._waiting):
            if not self._free:
                return
            if self._may_have(name):
                self._serve_one(name)

    def _serve_one(self, name: str) -> None:
        turns = self._waiting[name]
        while turns:
            turn = turns.popleft()
            # Of a caller that was cancelled and did not run since, it is over already.
            if not turn.done():
                self._hold(name)
                turn.set_result(None)
                break
        if turns:
            self._waiting.move_to_end(name)
        else:
            del self._waiting[name]

    def _hold(self, name: str) -> None:
        self._free -= 1
        self._held[name] += 1

    def _may_have(self, name: str) -> bool:
        return not name or self._held[name] < self._share

    def _forget(self, name: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(name)
        if turns is None or turn not in turns:
            return
        turns.remove(turn)
        if not turns:
            del self._waiting[name]
