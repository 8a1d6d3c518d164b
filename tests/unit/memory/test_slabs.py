"""Packing buffers into pinned slabs loses little, where pinning each by itself loses a third of what is pinned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.fit.traced import TRACED
from runtime.lane.memory.slabs import ALIGNMENT_BYTES, pinned_bytes, plan_slabs

_KIB = 1024


def _power_above(size: int) -> int:
    return 1 << (size - 1).bit_length()


@given(st.lists(st.integers(min_value=0, max_value=2**28), max_size=40))
def test_every_buffer_has_a_place_of_its_own_whatever_the_sizes(sizes: list[int]) -> None:
    slabs = plan_slabs(sizes)
    assert sorted(index for slab in slabs for index in slab.offsets) == list(range(len(sizes)))
    for slab in slabs:
        assert slab.size_bytes == _power_above(slab.size_bytes)
        end = 0
        for index, offset in sorted(slab.offsets.items(), key=lambda entry: entry[1]):
            assert offset % ALIGNMENT_BYTES == 0
            assert offset >= end
            end = offset + sizes[index]
        assert end <= slab.size_bytes


def test_slabs_are_fitted_when_little_is_left() -> None:
    assert pinned_bytes([700 * _KIB]) == 1024 * _KIB
    assert pinned_bytes([100 * _KIB] * 7) <= 1024 * _KIB


def test_a_buffer_gets_a_slab_of_its_own_size_when_it_is_larger_than_slabs_are() -> None:
    assert pinned_bytes([3 * 2**30]) == 4 * 2**30


@pytest.mark.parametrize(("model", "storage"), [("anisora", "fp8"), ("anisora", "bf16"), ("phr00t", "fp8"), ("phr00t", "bf16")])
def test_little_is_wasted_when_the_real_weights_are_pinned_by_blocks(model: str, storage: str) -> None:
    """Hazard 7: the allocator rounds each pinned block up to a power of two."""
    parts = TRACED[model].parts[storage].parts
    buffers = [size for part in parts for size in (part.rest_bytes, *part.block_bytes)]
    assert pinned_bytes(buffers) <= 1.06 * sum(buffers)


def test_half_as_much_again_is_wasted_when_each_tensor_of_a_block_is_pinned_by_itself() -> None:
    """What diffusers' group offload does; arithmetic over the tensors of one block of Wan 14B in bf16 (facts/models.md: 1.53 times)."""
    width, feed = 5120, 13_824
    linears = [(width, width)] * 8 + [(feed, width), (width, feed)]
    tensors = [2 * rows * columns for rows, columns in linears] + [2 * rows for rows, _ in linears] + [2 * width] * 6 + [2 * 6 * width]
    each = sum(_power_above(size) for size in tensors)
    assert 1.50 < each / sum(tensors) < 1.56
    assert pinned_bytes([sum(tensors)] * 40) <= 1.05 * 40 * sum(tensors)
