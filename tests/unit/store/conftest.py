"""A SQLite file of one's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from admission.store.sql import SqlStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will be, in a folder that does not exist yet."""
    return tmp_path / "data" / "admission.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqlStore]:
    """An open, empty store in the file at `path`, which waits 50 ms for other writers."""
    new = SqlStore(f"sqlite:///{path}", busy_timeout_s=0.05)
    await new.open()
    yield new
    await new.close()
