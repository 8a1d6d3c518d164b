"""Which cause an error has, and what operators read of it."""

from __future__ import annotations

import errno

import pytest

from runtime.lane.raised import cause_of_load
from runtime.lane.renderer import ModelFilesMissingError, ModelFilesUnusableError
from runtime.lane.start_failure import StartCause, one_line, reason_of


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ModelFilesMissingError("no folder"), StartCause.WEIGHTS_MISSING),
        (ModelFilesUnusableError("cut off"), StartCause.WEIGHTS_UNUSABLE),
        (OSError("Can't load the configuration"), StartCause.WEIGHTS_UNUSABLE),
        (PermissionError(errno.EACCES, "not yours"), StartCause.WEIGHTS_UNUSABLE),
        (MemoryError(), StartCause.HOST_MEMORY),
        (OSError(errno.ENOMEM, "no memory"), StartCause.HOST_MEMORY),
        (RuntimeError("CUDA error: out of memory"), StartCause.GPU_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), StartCause.DEVICE),
        (RuntimeError("no"), StartCause.OTHER),
    ],
)
def test_the_cause_is_that_of_the_error_when_a_load_fails(error: Exception, cause: StartCause) -> None:
    assert cause_of_load(error) is cause


def test_the_cause_is_found_when_a_library_raised_its_own_error_from_it() -> None:
    error = ValueError("the model cannot be made")
    error.__cause__ = MemoryError()
    assert cause_of_load(error) is StartCause.HOST_MEMORY


@pytest.mark.torch
def test_host_memory_is_the_cause_when_torch_cannot_have_that_much_of_it() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert cause_of_load(caught.value) is StartCause.HOST_MEMORY


def test_the_reason_is_one_short_line_when_the_error_has_many() -> None:
    assert reason_of(RuntimeError("CUDA error:\n  bad\tthing \x1b[31mred")) == "RuntimeError: CUDA error: bad thing [31mred"
    assert len(one_line("word " * 1000)) == 350
