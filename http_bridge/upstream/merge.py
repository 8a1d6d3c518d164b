"""One page of two lists that are sorted alike and asked for by page: the place in each is found by a few looks, nothing is read whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
_Result = TypeVar("_Result")


class Comparable(Protocol):
    """What items are sorted by."""

    def __lt__(self, other: Any, /) -> bool:
        """Less than a key of the same sort."""


Key = Callable[[Item], Comparable]

ReadPage = Callable[[int, int], Coroutine[Any, Any, tuple[Sequence[Item], int]]]
"""Page number (from 1) and page size to the items of that page and how many there are in all. Largest keys first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged(Generic[Item]):
    """One page of the merged list, and how long the whole is."""

    items: Sequence[Item]
    total: int


async def merged_page(first: ReadPage[Item], second: ReadPage[Item], key: Key[Item], *, page: int, per_page: int) -> Merged[Item]:
    """Page `page` of the two lists merged, largest keys first; of equal keys those of the first list come first.

    What stands where depends on the two lists alone and never on the page that was asked for, so that pages of any size neither repeat nor
    leave out an item. Each list may order its own equals as it likes. With n items before the page it takes log2(n / per_page) looks.
    """
    return await _Selection(_Pages(first, per_page), _Pages(second, per_page), key).page((page - 1) * per_page, per_page)


async def together(*calls: Coroutine[Any, Any, _Result]) -> list[_Result]:
    """All results. The first error ends the others, and is raised as it is."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Pages(Generic[Item]):
    """One list, for one request: pages that were read are kept, so that none is read twice."""

    def __init__(self, read: ReadPage[Item], size: int) -> None:
        self._read = read
        self._size = size
        self._read_pages: dict[int, Sequence[Item]] = {}
        self.total = 0

    async def open(self) -> None:
        """Learns how long the list is."""
        self._read_pages[0], self.total = await self._read(1, self._size)

    async def window(self, start: int, end: int) -> list[Item]:
        """The items from `start` to before `end`; fewer when the list is shorter, or became so meanwhile."""
        start, end = max(0, start), min(end, self.total)
        if start >= end:
            return []
        numbers = range(start // self._size, (end - 1) // self._size + 1)
        await together(*(self._keep(number) for number in numbers if number not in self._read_pages))
        items = [item for number in numbers for item in self._read_pages[number]]
        skipped = start - numbers.start * self._size
        return items[skipped : skipped + end - start]

    async def look(self, index: int) -> Item | None:
        """One item; None when it is gone."""
        kept = self._read_pages.get(index // self._size)
        if kept is not None:
            return next(iter(kept[index % self._size :]), None)
        items, _total = await self._read(index + 1, 1)
        return next(iter(items), None)

    async def _keep(self, number: int) -> None:
        self._read_pages[number], _total = await self._read(number + 1, self._size)


class _Selection(Generic[Item]):
    def __init__(self, first: _Pages[Item], second: _Pages[Item], key: Key[Item]) -> None:
        self._first = first
        self._second = second
        self._key = key

    async def page(self, offset: int, size: int) -> Merged[Item]:
        first, second = self._first, self._second
        await together(first.open(), second.open())
        total = first.total + second.total
        if offset >= total:
            return Merged(items=[], total=total)
        # Of the `offset` items before the page, between `low` and `high` are of the first list.
        low, high = max(0, offset - second.total), min(offset, first.total)
        while high - low > size:
            middle = (low + high) // 2
            one, other = await together(first.look(middle), second.look(offset - middle - 1))
            if self._is_before(one, other):
                low = middle + 1
            else:
                high = middle
        ones, others = await together(first.window(low, high + size), second.window(offset - high, offset - low + size))
        skipped = _bisected(low, high, lambda index: self._is_before(_at(ones, index - low), _at(others, high - index - 1)))
        return Merged(items=self._merged(ones[skipped - low :], others[high - skipped :], size), total=total)

    def _is_before(self, one: Item | None, other: Item | None) -> bool:
        """Whether an item of the first list comes before one of the second; what is gone comes last."""
        if one is None or other is None:
            return one is not None
        return not self._key(one) < self._key(other)

    def _merged(self, ones: Sequence[Item], others: Sequence[Item], size: int) -> list[Item]:
        merged: list[Item] = []
        taken = 0
        while len(merged) < size and len(merged) < len(ones) + len(others):
            one, other = _at(ones, taken), _at(others, len(merged) - taken)
            if one is not None and self._is_before(one, other):
                merged.append(one)
                taken += 1
            elif other is not None:
                merged.append(other)
        return merged


def _bisected(low: int, high: int, is_below: Callable[[int], bool]) -> int:
    """The smallest index from `low` on that is not below; `high` when all are."""
    while low < high:
        middle = (low + high) // 2
        if is_below(middle):
            low = middle + 1
        else:
            high = middle
    return low


def _at(items: Sequence[Item], index: int) -> Item | None:
    return items[index] if 0 <= index < len(items) else None
