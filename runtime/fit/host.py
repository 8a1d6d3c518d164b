"""How the weights of a placement lie in host memory: it never refuses a request, but it decides how fast weights reach the GPU."""

from __future__ import annotations

from enum import StrEnum

from runtime.fit.cost import DeviceLimits, Rung

_GIB = 1024**3


class HostRoom(StrEnum):
    """Where the weights are when they are not on the GPU."""

    PINNED = "pinned"
    """In host memory, as much of it pinned as the placement wants: copies run at the speed of the bus."""
    PAGED = "paged"
    """In host memory, in part not pinned: copies of that part are slower."""
    MAPPED = "mapped"
    """Host memory is too small: they stay mapped from disk, and a copy may have to wait for the disk."""


def host_reserve_bytes(total_bytes: int) -> int:
    """What a host keeps beside weights: 6 GiB, or a quarter of a small one.

    6 GiB: the libraries with a CUDA context take some 3 GiB of host memory, a decoded clip of 81 frames at 720x1280 is 0.9 GB in float32
    and exists up to three times while it becomes pictures.
    """
    return min(6 * _GIB, total_bytes // 4)


def host_room(rung: Rung, limits: DeviceLimits) -> HostRoom:
    """How the weights of this placement lie on this host."""
    if rung.host_bytes > limits.host_bytes - host_reserve_bytes(limits.host_bytes):
        return HostRoom.MAPPED
    return HostRoom.PINNED if rung.pinned_bytes <= limits.pinned_limit_bytes else HostRoom.PAGED
