"""A CPU as the device: it has no memory of its own, so an account tells the tensors that count as its."""

from __future__ import annotations

import ctypes
import gc
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING

from runtime.fit.cost import DeviceLimits
from runtime.fit.gpus import pinned_limit
from runtime.lane.memory.port import MemoryFigures
from runtime.lane.memory.process import host_available_bytes, host_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from runtime.lane.memory.account import TensorAccount


class HostMemory:
    """A CPU without a limit: the figures are counted, nothing is refused. Torch is imported when the first tensor is asked for."""

    device = "cpu"
    label = "cpu"
    # Small tensors that libraries keep, such as position tables; far below the tiny pipelines' 0.7 MB, so that a leak of one shows.
    residue_allowance_bytes = 64 * 1024

    def __init__(self, *, margin_bytes: int = 0, pinned_limit_bytes: int | None = None) -> None:
        """Margin and pinned limit (None: three quarters of host memory) are reported in the limits only: nothing is pinned here."""
        self._margin_bytes = margin_bytes
        self._pinned_limit_bytes = pinned_limit_bytes
        self._limits: DeviceLimits | None = None

    def limits(self) -> DeviceLimits:
        """The machine's or container's memory, and what of it was in use at the first call."""
        if self._limits is None:
            host_bytes = host_memory_bytes()
            self._limits = self._make_limits(host_bytes, max(0, host_bytes - host_available_bytes()), host_bytes)
        return self._limits

    def counting(self) -> AbstractContextManager[None]:
        """Within it, what is made counts."""
        return _Counting(self._account)

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """A flat uint8 tensor that counts."""
        import torch

        with self._account:
            return torch.empty(size_bytes, dtype=torch.uint8)

    def host_buffers(self, sizes_bytes: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Flat uint8 tensors that do not count; each by itself, as nothing is rounded."""
        import torch

        with self._account.ignoring():
            return tuple(torch.empty(size_bytes, dtype=torch.uint8) for size_bytes in sizes_bytes)

    def begin_copy(self, source: torch.Tensor, target: torch.Tensor) -> object:
        """Copies; the ticket is of no use."""
        target.copy_(source)
        return None

    def finish_copy(self, ticket: object) -> None:
        """The copy was made when it began."""

    def reset_peaks(self) -> None:
        """The peak counts from what is alive now."""
        if self._is_used:
            self._account.reset_peak()

    def wait(self) -> None:
        """Nothing to wait for: calls return when the work is done."""

    def cleanup(self) -> None:
        """Collects garbage and returns free heap pages to the system."""
        gc.collect()
        trim_heap()

    def live_bytes(self) -> int:
        """Of what counts and is alive."""
        return self._account.live_bytes if self._is_used else 0

    def figures(self) -> MemoryFigures:
        """The account's; a CPU reserves nothing and has no driver."""
        peak_bytes = self._account.peak_bytes if self._is_used else 0
        return MemoryFigures(allocated_bytes=self.live_bytes(), peak_allocated_bytes=peak_bytes, pinned_bytes=0)

    def _make_limits(self, total_bytes: int, other_bytes: int, host_bytes: int) -> DeviceLimits:
        pinned_limit_bytes = self._pinned_limit_bytes
        return DeviceLimits(
            gpu=self.label,
            total_bytes=total_bytes,
            other_bytes=other_bytes,
            margin_bytes=self._margin_bytes,
            host_bytes=host_bytes,
            pinned_limit_bytes=pinned_limit(host_bytes) if pinned_limit_bytes is None else pinned_limit_bytes,
        )

    @property
    def _is_used(self) -> bool:
        """A tensor was asked for. Before that nothing counts, and torch, which takes seconds and 300 MB to import, is not needed."""
        return "_account" in self.__dict__

    @cached_property
    def _account(self) -> TensorAccount:
        from runtime.lane.memory.account import TensorAccount

        return TensorAccount(limit_bytes=self._budget())

    def _budget(self) -> int | None:
        """What may be alive at once; None: anything."""
        return None


class _Counting(AbstractContextManager[None]):
    """Enters the account, and leaves it."""

    def __init__(self, account: TensorAccount) -> None:
        self._account = account

    def __enter__(self) -> None:
        self._account.__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        self._account.__exit__(*error)  # type: ignore[no-untyped-call]


def trim_heap() -> None:
    """Returns free heap pages to the system where the C library can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
