"""A catalog of pipelines without torch for tests of the lane's processes; the prompt says how a pipeline behaves.

`renders`: a picture that depends on the seed. `raises`, `hangs` (after one step, never looks at anything), `hangs at once` (before the
first step), `writes` (a temporary file, and hangs), `kills itself`, `steps` (until it is cancelled), `deaf` (steps, and swallows the
cancel), `waits` (until a file named `go` lies in the models folder), `leaks` (survives its release), `takes N` (N seconds, in steps).
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.fit.cost import ModelLadder
from runtime.fit.placement import MemoryPhase
from runtime.lane.renderer import (
    HostWeights,
    LoadSettings,
    ModelFilesMissingError,
    ModelFilesUnusableError,
    Pipeline,
    RenderCancelled,
    RenderJob,
)
from tests.harness.lane_memory import FakeWeights, flat_ladder

_WEIGHT_BYTES = 1000

_leaked: list[object] = []


class NumpyPipeline:
    """Behaves as the prompt says."""

    def __init__(self, model: str, models_dir: Path) -> None:
        """A pipeline of this model."""
        self.model = model
        self._models_dir = models_dir

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """Takes four steps, then gives noise that the seed decides."""
        request = job.request
        behaviour = getattr(self, "_" + request.prompt.replace(" ", "_"), None)
        job.on_phase(MemoryPhase.TEXT)
        job.on_phase(MemoryPhase.DENOISE)
        if request.prompt != "hangs at once":
            job.on_step(1, 4)
        if behaviour is not None:
            behaviour(job)
        elif request.prompt.startswith("takes "):
            self._takes(job, float(request.prompt.removeprefix("takes ")))
        for step in range(2, 5):
            job.on_step(step, 4)
        job.on_phase(MemoryPhase.DECODE)
        generator = np.random.default_rng(request.seed)
        block = generator.integers(0, 256, (request.num_frames, request.height // 16, request.width // 16, 3), dtype=np.uint8)
        return block.repeat(16, axis=1).repeat(16, axis=2)

    def weight_bytes(self) -> int:
        """A made-up figure."""
        return _WEIGHT_BYTES

    def release(self) -> None:
        """Nothing to drop."""

    def _raises(self, job: RenderJob) -> None:
        msg = f"a message that quotes {job.request.prompt}"
        raise RuntimeError(msg)

    def _hangs(self, job: RenderJob) -> None:
        while True:
            time.sleep(60)

    _hangs_at_once = _hangs

    def _writes(self, job: RenderJob) -> None:
        Path(tempfile.mkdtemp(), "half.mp4").touch()
        self._hangs(job)

    def _kills_itself(self, job: RenderJob) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _steps(self, job: RenderJob) -> None:
        while True:
            time.sleep(0.01)
            job.on_step(2, 4)

    def _deaf(self, job: RenderJob) -> None:
        while True:
            time.sleep(0.01)
            try:
                job.on_step(2, 4)
            except RenderCancelled:
                continue

    def _waits(self, job: RenderJob) -> None:
        while not (self._models_dir / "go").exists():
            time.sleep(0.01)

    def _takes(self, job: RenderJob, seconds: float) -> None:
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            time.sleep(0.02)
            job.check()

    def _leaks(self, job: RenderJob) -> None:
        _leaked.append(self)


class NumpyCatalog:
    """Loads the pipelines above under the names of the real models.

    A file named `broken`, `missing` or `damaged` in the models folder makes every load fail in its way; `slow` makes the read hang halfway.
    """

    def models(self) -> tuple[str, ...]:
        """The real names."""
        return ("anisora", "phr00t")

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """Everything fits everywhere."""
        return flat_ladder(model, host_bytes=_WEIGHT_BYTES)

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """At once."""
        on_stage(f"reading {model}")
        if (settings.models_dir / "broken").exists():
            msg = "the weights are broken"
            raise RuntimeError(msg)
        if (settings.models_dir / "missing").exists():
            raise ModelFilesMissingError("no such folder")
        if (settings.models_dir / "damaged").exists():
            raise ModelFilesUnusableError("the header is cut off")
        settings.on_read(_WEIGHT_BYTES // 2, _WEIGHT_BYTES)
        while (settings.models_dir / "slow").exists():
            time.sleep(0.01)
            settings.on_read(_WEIGHT_BYTES // 2, _WEIGHT_BYTES)
        return FakeWeights(host_bytes=_WEIGHT_BYTES)

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """At once."""
        return NumpyPipeline(model, settings.models_dir)


catalog = NumpyCatalog()
