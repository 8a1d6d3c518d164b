"""Tells when the device has more or less for this process than it had: another process came or went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.lane.recovery import limits_now

if TYPE_CHECKING:
    from runtime.fit.cost import DeviceLimits
    from runtime.lane.memory.port import DeviceMemory

IDLE_S = 30.0
"""Between two looks while nothing is rendered: a lane on which nothing fits any more gets no request that would show that it fits again."""

_LEAST_CHANGE_BYTES = 64 * 1024**2
"""Less is what libraries load and drop."""


class LimitsWatch:
    """Looks at the limits of one device. One thread uses it."""

    def __init__(self, memory: DeviceMemory, told: DeviceLimits) -> None:
        """`told` is what the agent knows."""
        self._memory = memory
        self._told = told

    def now(self) -> DeviceLimits:
        """As they are now, from those of the start. Raises what the device raises when it does not answer."""
        figures = self._memory.figures()
        return limits_now(self._memory.limits(), figures.driver_free_bytes, figures.reserved_bytes)

    def news(self) -> DeviceLimits | None:
        """Limits that the agent should hear of; None: nothing changed. Raises as `now`."""
        limits = self.now()
        if limits == self._told:
            return None
        # Back to what they were is told in any case, so that small changes do not add up.
        if limits != self._memory.limits() and abs(limits.budget_bytes - self._told.budget_bytes) < _LEAST_CHANGE_BYTES:
            return None
        self._told = limits
        return limits
