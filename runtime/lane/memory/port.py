"""The port: what a pipeline's process asks of the memory of its device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from runtime.fit.cost import DeviceLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """What can be read now, in bytes; None where the device cannot tell. Peaks count from `DeviceMemory.reset_peaks`."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    driver_free_bytes: int | None = None
    pinned_bytes: int | None = None


class DeviceMemory(Protocol):
    """The memory of one device. One thread uses it.

    Weights reach the device by `allocate` and the copies only, so that a CPU with a budget can tell them from those in host memory.
    """

    @property
    def device(self) -> str:
        """Torch's name of it: `cpu`, `cuda:0`."""
        ...

    @property
    def label(self) -> str:
        """Its name for people: `cpu`, `NVIDIA A10G`."""
        ...

    @property
    def residue_allowance_bytes(self) -> int:
        """What may stay after a release without being a leak: workspaces and caches that libraries keep once per process."""
        ...

    def limits(self) -> DeviceLimits:
        """What device and host have. `other_bytes` is measured at the first call, which must come before anything is loaded."""
        ...

    def counting(self) -> AbstractContextManager[None]:
        """Within it, tensors that are made count as the device's. For a CPU with a budget; a GPU knows its tensors."""
        ...

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """A flat uint8 tensor on the device. Raises `torch.OutOfMemoryError`."""
        ...

    def host_buffers(self, sizes_bytes: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Flat uint8 tensors in host memory, pinned as far as the pinned limit allows; they never count as the device's.

        They are parts of slabs, as pinned blocks are rounded up to powers of two (facts/models.md, hazard 7); a slab goes when the last
        tensor of it is dropped.
        """
        ...

    def begin_copy(self, source: torch.Tensor, target: torch.Tensor) -> object:
        """Starts to copy a flat uint8 host tensor into one on the device, beside what the device computes, but after all work that it was
        given so far: so the target may be in use until then. Returns a ticket for `finish_copy`."""
        ...

    def finish_copy(self, ticket: object) -> None:
        """Work that the device is given from here on sees the copy."""
        ...

    def reset_peaks(self) -> None:
        """Peaks count from here."""
        ...

    def wait(self) -> None:
        """Returns when the device has done all work that it was given, so that times and steps are true."""
        ...

    def cleanup(self) -> None:
        """Collects garbage and gives cached memory back to the device and the machine. Waits for the device's work first."""
        ...

    def live_bytes(self) -> int:
        """Bytes of all tensors alive on the device. Exact after `cleanup`."""
        ...

    def figures(self) -> MemoryFigures:
        """What the device tells now."""
        ...
