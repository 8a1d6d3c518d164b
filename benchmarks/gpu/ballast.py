"""Takes a device's memory away when a phase of a render begins, as another process would."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.gpu.inside import Inside
from runtime.lane.memory.open import is_out_of_gpu_memory
from runtime.lane.raised import drop_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    from benchmarks.gpu.random_models import RandomCatalog
    from runtime.fit.placement import MemoryPhase
    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.renderer import HostWeights, LoadSettings, Pipeline, RenderJob

_LARGEST_PIECE_BYTES = 4 * 1024**3
_SMALLEST_PIECE_BYTES = 64 * 1024


class Ballasted:
    """A catalog whose pipelines find the device full when a phase begins, once, if they are told to.

    Attributes:
        phase: the next to find it so; None: none.
        spared_bytes: left free of the device then. 0: not even the weights of the phase get there; with room for these, its work runs out.
    """

    def __init__(self, catalog: RandomCatalog) -> None:
        """Wraps a catalog."""
        self._catalog = catalog
        self.models = catalog.models
        self.ladder = catalog.ladder
        self.read = catalog.read
        self.phase: MemoryPhase | None = None
        self.spared_bytes = 0

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """The pipeline, with the ballast at hand."""
        return _BallastedPipeline(self._catalog.assemble(model, weights, settings, on_stage), self, settings.memory)


class _BallastedPipeline:
    def __init__(self, pipeline: Pipeline, orders: Ballasted, memory: DeviceMemory) -> None:
        self._pipeline: Pipeline = pipeline
        self._orders = orders
        self._memory = memory
        self.weight_bytes = pipeline.weight_bytes

    @property
    def inside(self) -> Inside:
        """What the pipeline is made of."""
        return Inside(self._pipeline)

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        ballast: list[object] = []

        def on_phase(phase: MemoryPhase) -> None:
            job.on_phase(phase)
            if phase is self._orders.phase:
                self._orders.phase = None
                spared = self._memory.allocate(self._orders.spared_bytes) if self._orders.spared_bytes else None
                ballast.extend(_fill(self._memory))
                del spared

        try:
            return self._pipeline.render(replace(job, on_phase=on_phase))
        finally:
            ballast.clear()

    def release(self) -> None:
        self._pipeline.release()
        del self._pipeline, self.weight_bytes


def _fill(memory: DeviceMemory) -> Iterator[object]:
    """Takes all memory that can be had, in pieces that get smaller."""
    size_bytes = _LARGEST_PIECE_BYTES
    while size_bytes >= _SMALLEST_PIECE_BYTES:
        try:
            yield memory.allocate(size_bytes)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            drop_frames(error)
            size_bytes //= 2
