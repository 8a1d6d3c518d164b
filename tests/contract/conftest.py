"""Every implementation of the store, opened; what it returns for a test is the same object closed and opened again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from admission.store.memory import MemoryStore
from admission.store.sql import SqlStore
from tests.harness.clock import FakeClock
from tests.harness.postgresql import PostgresqlServer


@pytest.fixture
def clock() -> FakeClock:
    """The time that the store sees."""
    return FakeClock()


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: PostgresqlServer) -> str:
    """A migrated, empty database; its copies are there sooner than it was."""
    url = postgresql_server.create_database()
    _migrate(url)
    return postgresql_server.name_of(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file, with nothing of it in another file beside."""
    path = tmp_path_factory.mktemp("template") / "store.db"
    _migrate(f"sqlite:///{path}")
    assert list(path.parent.iterdir()) == [path]
    return path


def _migrate(url: str) -> None:
    async def migrate() -> None:
        store = SqlStore(url)
        await store.open()
        await store.close()

    asyncio.run(migrate())


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty store is."""
    if request.param == "memory":
        yield "memory:"
    elif request.param == "sqlite":
        yield f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_template'), tmp_path / 'store.db')}"
    else:
        # Asked for here, so that the tests of the other stores need no server.
        server: PostgresqlServer = request.getfixturevalue("postgresql_server")
        copy = server.create_database(template=request.getfixturevalue("postgresql_template"))
        yield copy
        server.drop_database(copy)


@pytest.fixture
async def store(url: str, clock: FakeClock) -> AsyncIterator[MemoryStore | SqlStore]:
    """An open, empty store."""
    new: MemoryStore | SqlStore = (
        MemoryStore(now=lambda: clock.now().utc) if url == "memory:" else SqlStore(url, now=lambda: clock.now().utc)
    )
    await new.open()
    yield new
    await new.close()
