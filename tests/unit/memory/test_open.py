"""Devices are opened by name; running out of memory is told from other errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runtime.lane.memory.budget import BudgetMemory
from runtime.lane.memory.host import HostMemory
from runtime.lane.memory.open import is_out_of_gpu_memory, open_device


def test_a_cpu_has_no_limit_when_no_budget_is_given() -> None:
    opened = open_device("cpu")
    assert type(opened) is HostMemory
    assert opened.limits().total_bytes == opened.limits().host_bytes


def test_a_cpu_has_a_budget_when_one_is_given() -> None:
    opened = open_device("cpu", budget_bytes=1000, margin_bytes=100, pinned_limit_bytes=10)
    assert isinstance(opened, BudgetMemory)
    limits = opened.limits()
    assert (limits.total_bytes, limits.margin_bytes, limits.pinned_limit_bytes) == (1000, 100, 10)


@pytest.mark.parametrize("name", ["gpu", "cpu:0", "", "mps"])
def test_it_is_refused_when_there_is_no_such_kind_of_device(name: str) -> None:
    with pytest.raises(ValueError, match="must be auto, cpu or cuda:N"):
        open_device(name)


@pytest.mark.parametrize("figure", ["budget_bytes", "margin_bytes", "pinned_limit_bytes"])
def test_it_is_refused_when_a_figure_is_below_zero(figure: str) -> None:
    with pytest.raises(ValueError, match="below zero"):
        open_device("cpu", **{figure: -1})


def test_torch_is_not_imported_when_a_cpu_is_opened() -> None:
    program = (
        "import sys; from runtime.lane.memory.open import open_device; "
        "open_device('cpu', budget_bytes=9).limits(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_the_texts_of_libraries_are_known_when_their_own_allocation_fails() -> None:
    assert is_out_of_gpu_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_gpu_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_gpu_memory(ValueError("CUDA error: out of memory"))
