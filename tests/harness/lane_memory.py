"""The memory of a device that a test decides."""

from __future__ import annotations

from runtime.lane.device import MemoryFigures


class FakeMemory:
    """Live bytes are what a test says."""

    device = "cpu"
    label = "cpu"
    residue_allowance_bytes = 10

    def __init__(self) -> None:
        """Nothing is alive."""
        self.live_bytes = 0
        self.cleanups = 0
        self.waits = 0
        self.is_lost = False

    def reset_peaks(self) -> None:
        """Nothing to reset."""

    def wait(self) -> None:
        """Counts."""
        self.waits += 1

    def cleanup(self) -> None:
        """Counts; raises when the device is lost."""
        if self.is_lost:
            msg = "the device is lost"
            raise RuntimeError(msg)
        self.cleanups += 1

    def live_tensor_bytes(self) -> int:
        """As the test says."""
        return self.live_bytes

    def figures(self) -> MemoryFigures:
        """None."""
        return MemoryFigures()
