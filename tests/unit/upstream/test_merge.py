"""A page of two sorted lists is that of the merged list, whatever the lists, the page and its size are; and few looks find it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http_bridge.upstream.merge import merged_page


@dataclass(frozen=True, slots=True)
class _Item:
    key: int
    name: str


class _List:
    """One side: sorted by key, largest first; its equals in an order of its own."""

    def __init__(self, side: str, keys: Sequence[int]) -> None:
        self.items = [_Item(key, f"{side}{number}") for number, key in enumerate(sorted(keys, reverse=True))]
        self.calls: list[tuple[int, int]] = []

    async def page(self, number: int, size: int) -> tuple[Sequence[_Item], int]:
        self.calls.append((number, size))
        await asyncio.sleep(0)
        return self.items[(number - 1) * size : number * size], len(self.items)


def _naive(first: _List, second: _List) -> list[_Item]:
    ones, others, merged = list(first.items), list(second.items), []
    while ones or others:
        takes_first = ones and (not others or ones[0].key >= others[0].key)
        merged.append((ones if takes_first else others).pop(0))
    return merged


async def _all_pages(first: _List, second: _List, per_page: int) -> list[_Item]:
    found: list[_Item] = []
    total = len(first.items) + len(second.items)
    for page in range(1, total // per_page + 2):
        merged = await merged_page(first.page, second.page, lambda item: item.key, page=page, per_page=per_page)
        assert merged.total == total
        assert len(merged.items) == max(0, min(per_page, total - (page - 1) * per_page))
        found += merged.items
    return found


# Few different keys: most places are among equals.
KEYS = st.lists(st.integers(min_value=0, max_value=5), max_size=40) | st.lists(st.integers(), max_size=25)


@settings(max_examples=120, deadline=None)
@given(first=KEYS, second=KEYS, per_page=st.integers(min_value=1, max_value=12))
def test_pages_are_those_of_a_naive_merge_when_lists_and_sizes_are_any(first: list[int], second: list[int], per_page: int) -> None:
    one, other = _List("a", first), _List("b", second)
    assert asyncio.run(_all_pages(one, other, per_page)) == _naive(one, other)


@pytest.mark.long
@settings(max_examples=3000, deadline=None)
@given(first=KEYS, second=KEYS, per_page=st.integers(min_value=1, max_value=12))
def test_pages_are_those_of_a_naive_merge_when_many_are_tried(first: list[int], second: list[int], per_page: int) -> None:
    one, other = _List("a", first), _List("b", second)
    assert asyncio.run(_all_pages(one, other, per_page)) == _naive(one, other)


async def test_few_looks_are_enough_when_the_page_is_deep() -> None:
    one, other = _List("a", range(0, 200_000, 2)), _List("b", range(1, 200_001, 2))
    merged = await merged_page(one.page, other.page, lambda item: item.key, page=4000, per_page=20)
    assert [item.key for item in merged.items] == list(range(199_999 - 3999 * 20, 199_999 - 4000 * 20, -1))
    # The first page, a look for every halving down to one page, and at most three pages of the window.
    most = 1 + math.ceil(math.log2(4000)) + 3
    assert max(len(one.calls), len(other.calls)) <= most
    assert all(size in (1, 20) for _number, size in one.calls + other.calls)


async def test_no_look_is_needed_when_it_is_one_of_the_first_pages() -> None:
    one, other = _List("a", range(500)), _List("b", range(500))
    await merged_page(one.page, other.page, lambda item: item.key, page=1, per_page=20)
    assert one.calls == other.calls == [(1, 20)]


async def test_page_is_empty_and_nothing_is_looked_for_when_it_is_past_the_end() -> None:
    one, other = _List("a", range(5)), _List("b", range(5))
    merged = await merged_page(one.page, other.page, lambda item: item.key, page=2**31 - 1, per_page=100)
    assert (list(merged.items), merged.total) == ([], 10)
    assert one.calls == other.calls == [(1, 100)]


async def test_page_is_there_without_what_went_when_a_list_shrinks_meanwhile() -> None:
    one, other = _List("a", range(0, 400, 2)), _List("b", range(1, 401, 2))

    async def shrinking(number: int, size: int) -> tuple[Sequence[_Item], int]:
        found = await other.page(number, size)
        del other.items[50:]
        return found

    merged = await merged_page(one.page, shrinking, lambda item: item.key, page=12, per_page=10)
    assert len(merged.items) <= 10
    assert len({item.name for item in merged.items}) == len(merged.items)


async def test_other_side_is_not_asked_on_when_one_fails() -> None:
    hanging = asyncio.Event()
    left = asyncio.Event()

    async def fails(_number: int, _size: int) -> tuple[Sequence[_Item], int]:
        await hanging.wait()
        raise LookupError

    async def hangs(_number: int, _size: int) -> tuple[Sequence[_Item], int]:
        hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    with pytest.raises(LookupError):
        await merged_page(fails, hangs, lambda item: item.key, page=1, per_page=10)
    assert left.is_set()
