"""One bridge for all tests of a module, and its doors."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
import structlog

from tests.contract_http.doors import Door, opened_doors
from tests.harness.contract_bridge import ContractBridge, contract_bridge
from tests.harness.http import NO_AUTHORITIES


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """A line for each of thousands of requests would cost more than they do."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractBridge]:
    """It serves, with the default settings but for limits of rates."""
    with contract_bridge(tmp_path_factory.mktemp("contract")) as running:
        yield running


@pytest.fixture(scope="module")
def doors(bridge: ContractBridge) -> Iterator[list[Door]]:
    """Both prefixes with both credentials."""
    with opened_doors(bridge) as made:
        yield made


@pytest.fixture(scope="module")
def both(doors: list[Door]) -> list[Door]:
    """A session without prefix and the key with one: both prefixes and both credentials in two requests, for tables with many rows."""
    return [doors[0], doors[3]]


@pytest.fixture(params=range(4), ids=["root session", "root key", "api session", "api key"])
def door(request: pytest.FixtureRequest, doors: list[Door]) -> Door:
    """One of them."""
    made: Door = doors[request.param]
    return made


@pytest.fixture(scope="module")
def key_door(doors: list[Door]) -> Door:
    """The key, without a prefix."""
    return doors[1]


@pytest.fixture
def anonymous(bridge: ContractBridge) -> Iterator[httpx.Client]:
    """Nobody."""
    with httpx.Client(verify=NO_AUTHORITIES, base_url=bridge.url, timeout=20.0) as client:
        yield client
