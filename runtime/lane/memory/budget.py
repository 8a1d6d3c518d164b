"""A CPU with a byte budget: so the whole care for GPU memory runs for real where there is no GPU."""

from __future__ import annotations

from runtime.fit.cost import DeviceLimits
from runtime.lane.memory.host import HostMemory
from runtime.lane.memory.port import MemoryFigures
from runtime.lane.memory.process import host_memory_bytes


class BudgetMemory(HostMemory):
    """A CPU whose tensors may take so many bytes together: `torch.OutOfMemoryError` over it, from allocations and from any operation.

    What `allocate` gives counts, and all that is made within `counting`, except host buffers.
    """

    # Every byte is accounted for, so nothing may stay.
    residue_allowance_bytes = 0

    def __init__(self, budget_bytes: int, *, margin_bytes: int = 0, pinned_limit_bytes: int | None = None) -> None:
        """Raises ValueError when the budget is not above zero."""
        if budget_bytes <= 0:
            msg = f"a memory budget must be above zero bytes, not {budget_bytes}"
            raise ValueError(msg)
        super().__init__(margin_bytes=margin_bytes, pinned_limit_bytes=pinned_limit_bytes)
        self._budget_bytes = budget_bytes

    def limits(self) -> DeviceLimits:
        """The budget, all of it for tensors; host memory is the machine's or container's."""
        if self._limits is None:
            self._limits = self._make_limits(self._budget_bytes, 0, host_memory_bytes())
        return self._limits

    def figures(self) -> MemoryFigures:
        """The account's. What is free plays the driver's part; nothing is reserved beyond what is allocated."""
        live_bytes, peak_bytes = self.live_bytes(), self._account.peak_bytes if self._is_used else 0
        return MemoryFigures(
            allocated_bytes=live_bytes,
            reserved_bytes=live_bytes,
            peak_allocated_bytes=peak_bytes,
            peak_reserved_bytes=peak_bytes,
            driver_free_bytes=self._budget_bytes - live_bytes,
            pinned_bytes=0,
        )

    def _budget(self) -> int | None:
        return self._budget_bytes
