"""A SQLite file of one's own, and empty databases of both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url

from admission.store.sql import SqlStore
from tests.harness.postgresql import PostgresqlServer


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


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """An empty database of its own."""
    new = postgresql_server.create_database()
    yield new
    postgresql_server.drop_database(new)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'either.db'}"
    found: str = request.getfixturevalue("postgresql_url")
    return found


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine of one's own on the database at `url`."""
    parsed = make_url(url)
    new = create_engine(parsed if parsed.drivername == "sqlite" else parsed.set(drivername="postgresql+psycopg"))
    yield new
    new.dispose()
