"""Tells events, and the progress of a stage a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from runtime.preparation import Event, Note, Progress, Stage

_INTERVAL_S = 0.2


class Teller:
    """Where events go. `begin` a stage, `add` to it."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        """Tells nothing yet."""
        self.tell = emit
        self._stage, self._total, self._done = Stage.HASH, 0, 0
        self._told_s = 0.0

    def note(self, text: str) -> None:
        """A sentence for people."""
        self.tell(Note(text=text))

    def begin(self, stage: Stage, total_bytes: int) -> None:
        """Counts from nothing."""
        self._stage, self._total, self._done = stage, total_bytes, 0

    def add(self, item: str, count: int) -> None:
        """So many bytes more, of this item."""
        self._done += count
        now_s = time.monotonic()
        if self._done >= self._total or now_s - self._told_s >= _INTERVAL_S:
            self._told_s = now_s
            self.tell(Progress(stage=self._stage, item=item, done_bytes=self._done, total_bytes=self._total))
