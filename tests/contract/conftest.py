"""Every implementation of the store, opened; what it returns for a test is the same object closed and opened again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from admission.store.memory import MemoryStore
from admission.store.port import Store
from admission.store.sql import SqlStore
from tests.harness.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """The time that the store sees."""
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    """An open, empty store."""
    new: Store
    if request.param == "memory":
        new = MemoryStore(now=lambda: clock.now().utc)
    else:
        new = SqlStore(f"sqlite:///{tmp_path / 'store.db'}", now=lambda: clock.now().utc)
    await new.open()
    yield new
    await new.close()
