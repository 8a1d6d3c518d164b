"""Looks for unused images at an object store and a store that are slow or stop answering, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import obstore
import pytest

from admission.retention import InWork, Keep, Keeper
from admission.store.memory import MemoryStore
from runtime.clock import Reading
from tests.simulation.loop import Loop, seeded

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class _Now:
    """A clock that stands."""

    def now(self) -> Reading:
        return Reading(monotonic_s=0.0, utc=NOW)


class _SlowListing:
    """An object store's listing whose parts come so many seconds apart; it may stop answering after some."""

    def __init__(self, parts: int, each_s: float, *, stops_after: int | None = None) -> None:
        self._left = list(range(parts))
        self._each_s = each_s
        self._answers = parts if stops_after is None else stops_after

    def __aiter__(self) -> _SlowListing:
        return self

    async def __anext__(self) -> list[dict[str, Any]]:
        if not self._left:
            raise StopAsyncIteration
        number = self._left.pop(0)
        await asyncio.sleep(self._each_s if number < self._answers else 10**9)
        return [{"path": f"inputs/{number}", "last_modified": NOW - timedelta(days=2)}]


class _SlowStore(MemoryStore):
    """Answers about inputs after so many seconds."""

    def __init__(self, answer_s: float) -> None:
        super().__init__()
        self._answer_s = answer_s

    async def unused_inputs(self, keys: Sequence[str]) -> frozenset[str]:
        await asyncio.sleep(self._answer_s)
        return await super().unused_inputs(keys)


class _Swept:
    """Two looks of a keeper at such stores, in virtual time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, listing: Callable[[], _SlowListing], *, store_answer_s: float = 0.0) -> None:
        self.removed: list[str] = []
        self.failure: BaseException | None = None
        self.took_s = 0.0
        monkeypatch.setattr(obstore, "list", lambda *_args, **_options: listing())
        monkeypatch.setattr(obstore, "delete_async", self._delete)
        store = _SlowStore(store_answer_s)
        keeper = Keeper(
            store=store,
            access=store.access,
            objects=obstore.store.MemoryStore(),
            clock=_Now(),
            keep=Keep(done=None, failed=None, events=None, audit=None),
            in_work=InWork(used=frozenset),
        )
        loop = Loop(seeded(0))  # type: ignore[abstract]
        task = loop.create_task(self._look_twice(store, keeper))
        loop.run_until(task.done, until_s=10**8)
        self.took_s = loop.time()
        assert task.done()
        self.failure = task.exception()
        loop.dispose()

    async def _look_twice(self, store: MemoryStore, keeper: Keeper) -> None:
        await store.open()
        await keeper.remove_unused_inputs()
        await keeper.remove_unused_inputs()

    async def _delete(self, _objects: object, keys: Collection[str]) -> None:
        self.removed += keys


def test_images_go_when_listing_them_all_takes_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    swept = _Swept(monkeypatch, lambda: _SlowListing(200, 50.0))
    assert swept.failure is None
    # Two looks at 200 parts of 50 s each.
    assert swept.took_s == 2 * 200 * 50.0
    assert len(swept.removed) == 200


def test_look_ends_when_the_object_store_stops_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    swept = _Swept(monkeypatch, lambda: _SlowListing(3, 50.0, stops_after=2))
    assert isinstance(swept.failure, TimeoutError)
    # Two parts of 50 s, then the 60 s that the third may take.
    assert swept.took_s == 2 * 50.0 + 60.0
    assert swept.removed == []


def test_look_ends_when_the_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    swept = _Swept(monkeypatch, lambda: _SlowListing(3, 50.0), store_answer_s=10**6)
    assert isinstance(swept.failure, TimeoutError)
    assert swept.took_s == 50.0 + 60.0
