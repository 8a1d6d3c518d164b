"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.postgresql import PostgresqlServer, running_server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for the whole run, started by the first test that asks for it. A test fails when there is none."""
    with running_server() as server:
        yield server
