"""What tests of several folders share."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Generator, Iterator

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.harness.postgresql import PostgresqlServer, running_server
from tests.harness.stack import Stack

# A second thread of torch or numpy waits for its part by turning round, and takes time from what runs beside.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is made at collection stays to the end of the run: no look for garbage need go through it, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ours."""
    parser.addoption("--keep-screenshots", action="store_true", help="tests of the pages write docs/images anew")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for the whole run, started by the first test that asks for it. A test fails when there is none."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A ready stack with every process, tiny profile. A test that kills a process leaves the stack ready again."""
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


# Of a test with many cases the short suite takes every so many, the first always; `-m "long or not long"` and naming a test take all.
_THINNED = {
    "tests/acceptance/test_kills.py": 2,
    "tests/acceptance/test_renders.py": 2,
    "tests/contract_http/": 3,
    "tests/integration/test_lane": 2,
    "tests/integration/test_smoke.py": 2,
    "tests/simulation/test_planted_faults.py": 3,
    "tests/unit/memory/": 2,
    "tests/unit/pipelines/": 4,
    "tests/unit/prepare/": 4,
    "tests/unit/wan/": 2,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Makes the short suite short."""
    if config.option.markexpr != "not long" or any("::" in argument for argument in config.args):
        return
    cases: dict[str, int] = defaultdict(int)
    left_out: list[pytest.Item] = []
    for item in items:
        every = next((every for folder, every in _THINNED.items() if item.nodeid.startswith(folder)), 1)
        name = item.nodeid.partition("[")[0]
        if cases[name] % every:
            left_out.append(item)
        cases[name] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        out = set(left_out)
        items[:] = [item for item in items if item not in out]


# Tests that mostly wait; they run beside the others, not after them.
_WAITING = ("tests/chaos/", "tests/acceptance/test_overload.py", "tests/acceptance/test_restart_at_scale.py")
_ON_THE_STACK = ("tests/acceptance/", "tests/browser/")


class Grouped(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not followed by mypy
    """With `--dist loadscope`: one worker for the tests of the running stack, one for those that wait, then all file by file.

    xdist's own groups do nothing: xdist 3.8 writes a group into an attribute that pytest 9 does not read any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.partition("::")[0]
        return "waiting" if name.startswith(_WAITING) else "stack" if name.startswith(_ON_THE_STACK) else name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Grouped | None:
    """How tests are shared out."""
    return Grouped(config, log) if config.getvalue("dist") == "loadscope" else None
