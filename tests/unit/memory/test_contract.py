"""What every device memory does, whatever the device: one suite for all of them."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from runtime.lane.memory.open import is_out_of_gpu_memory, open_device
from runtime.lane.memory.port import DeviceMemory

pytestmark = pytest.mark.torch

_MIB = 1024 * 1024
_BUDGET_BYTES = 512 * _MIB
"""Enough for what CUDA keeps for itself; every test takes a few MiB of it."""

_NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

_OPENED: dict[str, Callable[[], DeviceMemory]] = {
    "host": lambda: open_device("cpu"),
    "budget": lambda: open_device("cpu", budget_bytes=_BUDGET_BYTES),
    "cuda": lambda: open_device("cuda:0"),
}


@pytest.fixture(params=["host", "budget", pytest.param("cuda", marks=_NEEDS_GPU)])
def memory(request: pytest.FixtureRequest) -> DeviceMemory:
    """Each kind of device memory, with its limits measured and nothing on it."""
    opened = _OPENED[str(request.param)]()
    opened.limits()
    opened.cleanup()
    return opened


def test_limits_leave_room_when_nothing_is_loaded(memory: DeviceMemory) -> None:
    limits = memory.limits()
    assert 0 <= limits.other_bytes + limits.margin_bytes < limits.total_bytes
    assert limits.budget_bytes > 0
    assert 0 < limits.pinned_limit_bytes <= limits.host_bytes
    assert limits.gpu == memory.label


def test_limits_stay_what_they_were_when_something_was_loaded(memory: DeviceMemory) -> None:
    before = memory.limits()
    kept = memory.allocate(8 * _MIB)
    assert memory.limits() == before
    del kept


def test_an_allocation_counts_until_it_is_dropped_when_made_outside_counting(memory: DeviceMemory) -> None:
    before = memory.live_bytes()
    buffer = memory.allocate(3 * _MIB)
    assert (buffer.dtype, tuple(buffer.shape), str(buffer.device)) == (torch.uint8, (3 * _MIB,), str(torch.device(memory.device)))
    assert memory.live_bytes() - before == 3 * _MIB
    del buffer
    memory.cleanup()
    assert memory.live_bytes() == before


def test_an_allocation_counts_once_when_made_within_counting(memory: DeviceMemory) -> None:
    before = memory.live_bytes()
    with memory.counting():
        buffer = memory.allocate(3 * _MIB)
        view = buffer.view(torch.float32)
    assert memory.live_bytes() - before == 3 * _MIB
    del buffer, view


def test_what_is_computed_counts_when_within_counting(memory: DeviceMemory) -> None:
    before = memory.live_bytes()
    with memory.counting():
        made = torch.zeros(2 * _MIB, dtype=torch.uint8, device=memory.device)
    assert memory.live_bytes() - before == 2 * _MIB
    del made


def test_host_buffers_never_count(memory: DeviceMemory) -> None:
    before = memory.live_bytes()
    outside = memory.host_buffers([_MIB, 3 * _MIB])
    with memory.counting():
        within = memory.host_buffers([_MIB])
    assert [buffer.numel() for buffer in (*outside, *within)] == [_MIB, 3 * _MIB, _MIB]
    assert {(buffer.dtype, buffer.device.type) for buffer in (*outside, *within)} == {(torch.uint8, "cpu")}
    assert memory.live_bytes() == before


def test_host_buffers_are_apart_when_one_is_written(memory: DeviceMemory) -> None:
    sizes = [1000, 70_001, 1, 4096, 300]
    buffers = memory.host_buffers(sizes)
    for number, buffer in enumerate(buffers):
        buffer.fill_(number)
    assert [buffer.numel() for buffer in buffers] == sizes
    assert all(bool((buffer == number).all()) for number, buffer in enumerate(buffers))


def test_a_copy_is_whole_when_it_is_finished(memory: DeviceMemory) -> None:
    (source,) = memory.host_buffers([2 * _MIB])
    source.copy_(torch.arange(2 * _MIB, dtype=torch.int64).remainder(251).to(torch.uint8))
    target = memory.allocate(2 * _MIB)
    memory.finish_copy(memory.begin_copy(source, target))
    assert torch.equal(target.cpu(), source)


def test_a_copy_comes_after_the_work_when_its_target_is_still_in_use(memory: DeviceMemory) -> None:
    (source,) = memory.host_buffers([_MIB])
    source.fill_(7)
    target = memory.allocate(_MIB)
    target.fill_(1)
    summed = target.to(torch.int64).sum()
    ticket = memory.begin_copy(source, target)
    memory.finish_copy(ticket)
    assert int(summed) == _MIB
    assert int(target.max()) == 7


def test_a_copy_gives_nothing_a_second_life_when_it_is_never_finished(memory: DeviceMemory) -> None:
    before = memory.live_bytes()
    (source,) = memory.host_buffers([_MIB])
    target = memory.allocate(_MIB)
    ticket = memory.begin_copy(source, target)
    del target, ticket
    memory.cleanup()
    assert memory.live_bytes() == before


def test_the_peak_counts_from_the_reset_when_more_was_there_before(memory: DeviceMemory) -> None:
    large = memory.allocate(16 * _MIB)
    del large
    memory.cleanup()
    memory.reset_peaks()
    small = memory.allocate(2 * _MIB)
    figures = memory.figures()
    assert figures.allocated_bytes == memory.live_bytes()
    assert figures.peak_allocated_bytes is not None
    assert small.nbytes <= figures.peak_allocated_bytes < 16 * _MIB
    del small


def test_cycles_are_collected_when_it_cleans_up(memory: DeviceMemory) -> None:
    before = memory.live_bytes()
    gc.disable()
    try:
        cycle: list[object] = [memory.allocate(_MIB)]
        cycle.append(cycle)
        del cycle
        assert memory.live_bytes() - before == _MIB
        memory.cleanup()
    finally:
        gc.enable()
    assert memory.live_bytes() == before


@pytest.mark.parametrize("kind", ["budget", pytest.param("cuda", marks=_NEEDS_GPU)])
def test_it_raises_torchs_own_error_when_there_is_no_room(kind: str) -> None:
    memory = _OPENED[kind]()
    total_bytes = memory.limits().total_bytes
    before = memory.live_bytes()
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate") as raised:
        memory.allocate(total_bytes + _MIB)
    assert is_out_of_gpu_memory(raised.value)
    assert memory.live_bytes() == before
    kept = memory.allocate(_MIB)  # the device works on
    assert memory.live_bytes() - before == kept.nbytes
