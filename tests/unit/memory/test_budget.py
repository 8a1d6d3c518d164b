"""What a CPU with a budget tells and refuses."""

from __future__ import annotations

import pytest
import torch

from runtime.lane.memory.budget import BudgetMemory

pytestmark = pytest.mark.torch

_KIB = 1024


def test_the_whole_budget_is_for_tensors_when_no_margin_is_asked() -> None:
    limits = BudgetMemory(1000 * _KIB).limits()
    assert (limits.total_bytes, limits.other_bytes, limits.budget_bytes) == (1000 * _KIB, 0, 1000 * _KIB)
    assert BudgetMemory(1000 * _KIB, margin_bytes=100 * _KIB).limits().budget_bytes == 900 * _KIB


def test_weights_and_activations_share_the_budget_when_something_is_computed() -> None:
    memory = BudgetMemory(1000 * _KIB)
    weights = memory.allocate(600 * _KIB)
    with memory.counting():
        activations = torch.zeros(300 * _KIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(200 * _KIB, dtype=torch.uint8)
    figures = memory.figures()
    assert (figures.allocated_bytes, figures.peak_allocated_bytes) == (900 * _KIB, 900 * _KIB)
    assert figures.driver_free_bytes == 100 * _KIB
    del weights, activations
    assert memory.live_bytes() == 0


def test_nothing_may_stay_after_a_release_when_every_byte_is_counted() -> None:
    assert BudgetMemory(_KIB).residue_allowance_bytes == 0


def test_it_is_refused_when_the_budget_is_nothing() -> None:
    with pytest.raises(ValueError, match="above zero"):
        BudgetMemory(0)
