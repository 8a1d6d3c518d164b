"""Watches how long the store takes: tells the observer of every transaction, whoever asks of the last minute, and the core of slow ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from admission.engine_types import StoreView

if TYPE_CHECKING:
    from admission.observer import CommitObserver

SLOW_COMMIT_S = 0.25
"""People notice, and the alert WarmlaneStoreSlow fires where one in a hundred takes longer."""

_WINDOW_S = 60.0


class StoreWatch:
    """Implements `admission.observer.CommitObserver` for the journal, in front of the one who counts."""

    def __init__(self, observer: CommitObserver, *, now_s: Callable[[], float], on_slow: Callable[[float], None]) -> None:
        """`on_slow` is told the seconds of a slow transaction, at most once a minute."""
        self._observer = observer
        self._now_s = now_s
        self._on_slow = on_slow
        # Those of the window that nothing later exceeds, so the first is the slowest.
        self._slowest: deque[tuple[float, float]] = deque()
        self._told_s: float | None = None
        self._failures = 0
        self._is_failing = False

    def committed(self, *, decisions: int, seconds: float) -> None:
        """See CommitObserver."""
        self._observer.committed(decisions=decisions, seconds=seconds)
        self._is_failing = False
        now_s = self._now_s()
        while self._slowest and self._slowest[-1][1] <= seconds:
            self._slowest.pop()
        self._slowest.append((now_s, seconds))
        self._expire(now_s)
        if seconds > SLOW_COMMIT_S and (self._told_s is None or now_s - self._told_s >= _WINDOW_S):
            self._told_s = now_s
            self._on_slow(seconds)

    def not_committed(self) -> None:
        """See CommitObserver."""
        self._observer.not_committed()
        self._failures += 1
        self._is_failing = True

    def view(self) -> StoreView:
        """How it does."""
        self._expire(self._now_s())
        slowest_s = self._slowest[0][1] if self._slowest else None
        return StoreView(slowest_commit_s=slowest_s, failures=self._failures, is_failing=self._is_failing)

    def _expire(self, now_s: float) -> None:
        while self._slowest and now_s - self._slowest[0][0] >= _WINDOW_S:
            self._slowest.popleft()
