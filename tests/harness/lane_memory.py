"""The memory of a device that a test decides, and ladders that are easy to reckon with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung
from runtime.fit.placement import PLACEMENTS, MemoryPhase
from runtime.lane.memory.port import MemoryFigures

if TYPE_CHECKING:
    import torch

GIB = 1024**3
PHASES = (MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE)


class FakeMemory:
    """Live bytes are what a test says. No torch.

    Attributes:
        alive_bytes: what is alive on the device.
        free_bytes: what the driver says; None: it does not tell.
        peak_bytes: of the tensors since the last reset.
        is_lost: the device does not answer any more.
    """

    device = "cpu"
    label = "cpu"
    residue_allowance_bytes = 10

    def __init__(self, *, total_bytes: int = 1000, host_bytes: int = 64 * GIB, pinned_limit_bytes: int = 48 * GIB) -> None:
        """Nothing is alive."""
        self.alive_bytes = 0
        self.free_bytes: int | None = None
        self.peak_bytes: int | None = None
        self.cleanups = 0
        self.waits = 0
        self.is_lost = False
        self._limits = DeviceLimits(
            gpu="cpu",
            total_bytes=total_bytes,
            other_bytes=0,
            margin_bytes=0,
            host_bytes=host_bytes,
            pinned_limit_bytes=pinned_limit_bytes,
        )

    def limits(self) -> DeviceLimits:
        """As the test said."""
        return self._limits

    def counting(self) -> AbstractContextManager[None]:
        """Nothing is counted."""
        return nullcontext()

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """Not for pipelines with tensors."""
        raise NotImplementedError

    def host_buffers(self, sizes_bytes: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Not for pipelines with tensors."""
        raise NotImplementedError

    def begin_copy(self, source: torch.Tensor, target: torch.Tensor) -> object:
        """Not for pipelines with tensors."""
        raise NotImplementedError

    def finish_copy(self, ticket: object) -> None:
        """Not for pipelines with tensors."""
        raise NotImplementedError

    def reset_peaks(self) -> None:
        """The peak is what is alive."""
        if self.peak_bytes is not None:
            self.peak_bytes = self.alive_bytes

    def wait(self) -> None:
        """Counts."""
        self.waits += 1

    def cleanup(self) -> None:
        """Counts; raises when the device is lost."""
        if self.is_lost:
            msg = "the device is lost"
            raise RuntimeError(msg)
        self.cleanups += 1

    def live_bytes(self) -> int:
        """As the test says."""
        return self.alive_bytes

    def figures(self) -> MemoryFigures:
        """As the test says."""
        return MemoryFigures(
            peak_allocated_bytes=self.peak_bytes,
            driver_free_bytes=self.free_bytes,
            reserved_bytes=self.alive_bytes if self.free_bytes is not None else None,
        )


class FakeWeights:
    """So many bytes of host memory."""

    def __init__(self, *, host_bytes: int = 100, pinned_bytes: int = 0) -> None:
        """As said."""
        self.host_bytes = host_bytes
        self.pinned_bytes = pinned_bytes

    def forget_networks(self) -> None:
        """There are none."""


def flat_ladder(
    model: str, peaks: Sequence[int] = (500, 400, 300, 200, 100), *, host_bytes: int = 100, pinned_bytes: int = 0
) -> ModelLadder:
    """A ladder whose rungs need so much in every phase of every request, fastest first."""
    return ModelLadder(
        model=model,
        rungs=tuple(
            Rung(
                placement=placement.name,
                phases=tuple(PhaseCost(phase=phase, weights_bytes=peak, activations=Activations()) for phase in PHASES),
                host_bytes=host_bytes,
                pinned_bytes=pinned_bytes,
            )
            for placement, peak in zip(PLACEMENTS, peaks, strict=True)
        ),
    )
