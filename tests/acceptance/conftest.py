"""Clients of the shared stack (its fixture is one level up), and a stack with the degraded pool alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.http import Frontend
from tests.harness.stack import Stack


@pytest.fixture(scope="session")
def pool_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A ready stack whose dedicated lanes are away: only the degraded pool renders."""
    with Stack(tmp_path_factory.mktemp("pool"), without=("lane-anisora", "lane-phr00t")) as running:
        yield running


@pytest.fixture
def frontend(stack: Stack) -> Iterator[Frontend]:
    """A client of the shared stack's bridge."""
    with Frontend(stack.http_url, stack.api_key) as client:
        yield client


@pytest.fixture
def pool_frontend(pool_stack: Stack) -> Iterator[Frontend]:
    """A client of the pool stack's bridge."""
    with Frontend(pool_stack.http_url, pool_stack.api_key) as client:
        yield client
