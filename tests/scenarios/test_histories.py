"""Seeded histories of the core: a short form here, the long one in `make test-all`, any range by `make simulate`."""

from __future__ import annotations

import pytest

from tests.harness.histories import History


@pytest.mark.parametrize("seed", range(12))
def test_invariants_hold_when_a_random_history_runs(seed: int) -> None:
    History(seed).run()


@pytest.mark.long
@pytest.mark.parametrize("block", range(20))
def test_invariants_hold_when_many_random_histories_run(block: int) -> None:
    for seed in range(1000 + block * 100, 1000 + (block + 1) * 100):
        History(seed).run()
