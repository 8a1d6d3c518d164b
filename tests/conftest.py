"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.postgresql import PostgresqlServer, running_server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for the whole run, started by the first test that asks for it. A test fails when there is none."""
    with running_server() as server:
        yield server


# Tests that mostly wait; they run beside the others, not after them.
_WAITING = ("tests/chaos/", "tests/acceptance/test_overload.py", "tests/acceptance/test_restart_at_scale.py")


# First of all: xdist reads the groups in its own form of this hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """With `-n 2 --dist loadgroup`: one worker for the tests of the running stack, one for those that wait, then file by file."""
    for item in items:
        name = Path(item.path).relative_to(config.rootpath).as_posix()
        group = "waiting" if name.startswith(_WAITING) else "stack" if name.startswith("tests/acceptance/") else name
        item.add_marker(pytest.mark.xdist_group(group))
