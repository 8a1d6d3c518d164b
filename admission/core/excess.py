"""How much more than predicted a phase was seen to take, by the size of its activations, and what to expect of other sizes.

What a trace cannot see (workspaces, the allocator's gaps) grows with the work or does not; one clip does not tell which. So a small
clip's excess is not carried to any size: larger ones are expected to take twice of it at most, and where that is wrong, their own tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Excess: TypeAlias = Mapping[int, int]
"""Bytes over the prediction, by size class: the bits of the predicted activation's bytes. 0: measured, and the prediction held."""

MOST = 3
"""Times the predicted activations: an excess over that is a mistake in the measuring, and believing it would refuse requests that fit."""


def raised(known: Excess, activation_bytes: int, peak_bytes: int) -> Excess | None:
    """What is known after activations of this predicted size were seen to take so much; None: nothing new.

    That a prediction held is worth keeping only where a smaller clip's excess would be expected otherwise.
    """
    if activation_bytes <= 0:
        return None
    size, over_bytes = activation_bytes.bit_length(), min(max(0, peak_bytes - activation_bytes), MOST * activation_bytes)
    if over_bytes == 0 and (not known or size <= max(known)):
        return None
    if size in known and over_bytes <= known[size]:
        return None
    return {**known, size: over_bytes}


def expected_bytes(known: Excess, activation_bytes: int) -> int:
    """What activations of this predicted size take beside it; never falls with the size."""
    if not known:
        return 0
    size, largest = activation_bytes.bit_length(), max(known)
    if size < min(known):
        return known[min(known)]
    most_bytes = max(over_bytes for measured, over_bytes in known.items() if measured <= size)
    if size <= largest:
        return most_bytes
    # Twice as much at twice the size, rising from the top of the largest class that was measured.
    return min(2 * most_bytes, most_bytes * activation_bytes >> largest)
