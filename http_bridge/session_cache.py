"""What the bridge remembers of generation sessions: that one is good until its end, which nothing changes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http_bridge.convert import SessionCheck

# Some 300 bytes each. Whoever is pushed out is asked for again.
_MOST = 16_384


def _now() -> datetime:
    return datetime.now(UTC)


class SessionCache:
    """The sessions that were found good, the least recently used first to go. Tokens are kept as digests only."""

    def __init__(self, most: int = _MOST, *, now: Callable[[], datetime] = _now) -> None:
        """Remembers this many."""
        self._most = most
        self._now = now
        self._good: OrderedDict[bytes, SessionCheck] = OrderedDict()

    def find(self, token: str) -> SessionCheck | None:
        """The session, while it is good; None when it must be asked for."""
        digest = _digest(token)
        check = self._good.get(digest)
        if check is None:
            return None
        if self._now() >= check.expires_at:
            del self._good[digest]
            return None
        self._good.move_to_end(digest)
        return check

    def keep(self, token: str, check: SessionCheck) -> None:
        """Remembers an active session."""
        digest = _digest(token)
        self._good[digest] = check
        self._good.move_to_end(digest)
        if len(self._good) > self._most:
            self._good.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
