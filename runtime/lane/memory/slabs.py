"""How buffers are packed into pinned slabs, so that little is lost to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ALIGNMENT_BYTES = 256
"""Of a buffer within its slab, so that tensors of any type start well within it; what CUDA's own allocations have."""

_SMALLEST_SLAB_BYTES = 64 * 1024
_LARGEST_SLAB_BYTES = (2**30, 2**31)
"""One block of Wan in bf16 is 0.65 GiB: three fill a slab of 2 GiB, one wastes a third of a slab of 1 GiB."""


@dataclass(frozen=True, slots=True)
class Slab:
    """One allocation.

    Attributes:
        size_bytes: a power of two: the pinned allocator rounds up to one (`CachingHostAllocator.h`; facts/models.md, hazard 7).
        offsets: where in it the buffers lie, by their index.
    """

    size_bytes: int
    offsets: dict[int, int] = field(default_factory=dict)


def plan_slabs(sizes_bytes: Sequence[int]) -> tuple[Slab, ...]:
    """Packs buffers of these sizes into slabs: of two upper sizes the one that wastes less, the last slabs fitted to what is left."""
    plans = [_packed(sizes_bytes, largest) for largest in _LARGEST_SLAB_BYTES]
    return min(plans, key=lambda plan: sum(slab.size_bytes for slab in plan))


def pinned_bytes(sizes_bytes: Sequence[int]) -> int:
    """What the slabs of buffers of these sizes take, rounding included."""
    return sum(slab.size_bytes for slab in plan_slabs(sizes_bytes))


def _packed(sizes_bytes: Sequence[int], largest_bytes: int) -> tuple[Slab, ...]:
    """Fills slab by slab, each time with the largest buffers that still fit."""
    waiting = sorted(range(len(sizes_bytes)), key=lambda index: -sizes_bytes[index])
    left_bytes = sum(_aligned(size) for size in sizes_bytes)
    slabs: list[Slab] = []
    while waiting:
        at_least = _power_above(_aligned(sizes_bytes[waiting[0]]))
        # The largest that is sure to be filled; what is left goes into smaller ones.
        slab = Slab(max(at_least, min(largest_bytes, _power_below(left_bytes)), _SMALLEST_SLAB_BYTES))
        used_bytes, postponed = 0, []
        for index in waiting:
            size_bytes = _aligned(sizes_bytes[index])
            if used_bytes + size_bytes <= slab.size_bytes:
                slab.offsets[index] = used_bytes
                used_bytes += size_bytes
            else:
                postponed.append(index)
        slabs.append(slab)
        waiting, left_bytes = postponed, left_bytes - used_bytes
    return tuple(slabs)


def _aligned(size_bytes: int) -> int:
    return -(-max(size_bytes, 1) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _power_above(size_bytes: int) -> int:
    return 1 << (size_bytes - 1).bit_length()


def _power_below(size_bytes: int) -> int:
    return 1 << (size_bytes.bit_length() - 1)
