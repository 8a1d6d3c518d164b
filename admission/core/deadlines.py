"""Everything that will be due, in one heap. Entries are hints: what is due is looked at again before anything is done."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class Due(StrEnum):
    """What to look at; the key names whose."""

    HELD = "held"
    LEASE = "lease"
    CONTACT = "contact"
    ABSENCE = "absence"
    HEALTH = "health"
    RESCUE = "rescue"
    NOT_SERVED = "not_served"
    RENDER = "render"
    QUOTA = "quota"
    REFUSALS = "refusals"


class Entry(NamedTuple):
    """At this monotonic time, look at this; `order` keeps equal times in the order in which they were set.

    A tuple, because the heap compares entries at every change of it.
    """

    at_s: float
    order: int
    due: Due
    key: str


class Deadlines:
    """A heap of entries. Entries are never removed early: that costs nothing, and a look at something that is gone does nothing."""

    def __init__(self) -> None:
        """Empty."""
        self._heap: list[Entry] = []
        self._order = 0

    def __len__(self) -> int:
        """How many looks are set; bounded by what the state holds, see `State`."""
        return len(self._heap)

    def set(self, at_s: float, due: Due, key: str) -> None:
        """Adds a look."""
        self._order += 1
        heapq.heappush(self._heap, Entry(at_s, self._order, due, key))

    def next_at(self) -> float | None:
        """Monotonic time of the next look; None when there is none."""
        return self._heap[0].at_s if self._heap else None

    def pop_due(self, now_s: float) -> Iterator[Entry]:
        """Takes every entry whose time has come; at exactly its time it has."""
        while self._heap and self._heap[0].at_s <= now_s:
            yield heapq.heappop(self._heap)
