"""The one stack that all acceptance tests of a run share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A ready stack with every process, tiny profile. A test that kills a process leaves the stack ready again."""
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
