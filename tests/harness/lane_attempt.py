"""Attempts in this process: a runner with one pipeline, a folder as object store and a memory that the test decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.fit.cost import ModelLadder
from runtime.lane.attempt import AttemptRunner
from runtime.lane.child_protocol import PartEnded, Progressed, Render, RenderEnded, ReplacementNeeded
from runtime.lane.files import AttemptFiles
from runtime.lane.finish import Finisher, Rendered
from runtime.lane.ladders import Ladders
from runtime.lane.outcome import FailureCode, Outcome
from runtime.lane.renderer import HostWeights, LoadSettings, Pipeline, RenderJob
from runtime.lane.resident_set import ResidentSet
from runtime.lane.run import Callbacks
from runtime.lane.state import Attempt
from runtime.objects import open_object_store
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from runtime.rules.parameters import to_parameters
from tests.harness.lane_memory import FakeMemory, FakeWeights, flat_ladder

Behaviour = Callable[[RenderJob], npt.NDArray[np.uint8]]


class OnePipeline:
    """Catalog and pipeline in one; a test says what rendering does."""

    def __init__(self, behaviour: Behaviour) -> None:
        """Keeps it."""
        self._behaviour = behaviour
        self.load_errors: list[Exception] = []
        self.ladder_error: Exception | None = None
        self.text_to_video_weights = ""
        self.placements: list[str] = []
        self.assembled = 0

    def models(self) -> tuple[str, ...]:
        """One."""
        return ("phr00t",)

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """500, 400, 300, 200 and 100 bytes."""
        if self.ladder_error is not None:
            raise self.ladder_error
        return replace(flat_ladder(model), text_to_video_weights=self.text_to_video_weights)

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """Nothing much."""
        on_stage("loading")
        return FakeWeights()

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Itself, or the next of the errors."""
        self.assembled += 1
        if self.load_errors:
            raise self.load_errors.pop(0)
        return self

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """As the test says."""
        self.placements.append(job.placement.name)
        return self._behaviour(job)

    def weight_bytes(self) -> int:
        """A made-up figure."""
        return 1

    def release(self) -> None:
        """Nothing."""


class Bench:
    """A runner with a pipeline, a folder as object store and a memory that the test decides."""

    def __init__(self, folder: Path, behaviour: Behaviour) -> None:
        """Sets it up."""
        self.memory = FakeMemory()
        self.told: list[Progressed] = []
        self.parts: list[PartEnded] = []
        self.is_cancelled = False
        settings = LoadSettings(profile="tiny", models_dir=folder, memory=self.memory)
        self.pipeline = OnePipeline(behaviour)
        ladders = Ladders(self.pipeline, settings)
        resident = ResidentSet(self.pipeline, settings, ladders, lambda model: None)
        files = self.files = AttemptFiles(open_object_store((folder / "store").as_uri()), pause_s=0)
        self.finisher = Finisher(files, tell=lambda ended: None)
        callbacks = Callbacks(is_cancelled=lambda order: self.is_cancelled, tell=self._tell)
        self.runner = AttemptRunner(resident, ladders, self.memory, files, callbacks)
        self.order = Render(attempt=Attempt(task_id="a", number=1), parameters={}, artifact_prefix="results/a/1/")

    def _tell(self, event: Progressed | PartEnded) -> None:
        if isinstance(event, PartEnded):
            self.parts.append(event)
        else:
            self.told.append(event)

    def run(self, **changes: object) -> Outcome:
        """Runs one attempt of a small clip; `changes` are parameters."""
        end = self.end(**changes)
        assert isinstance(end, RenderEnded)
        return end.outcome

    def end(self, **changes: object) -> RenderEnded | ReplacementNeeded:
        """As above, however it ends."""
        end = self.end_on_gpu(**changes)
        return self.finisher.finish(end) if isinstance(end, Rendered) else end

    def end_on_gpu(self, **changes: object) -> Rendered | RenderEnded | ReplacementNeeded:
        """As far as the attempt needs the GPU."""
        raw = {"model": "phr00t", "mode": "t2v", "prompt": "p", "width": 256, "height": 256, "num_frames": 5, "output_format": "webm"}
        parameters = {**to_parameters(effective(check_request(raw), seed=1)), **changes}
        return self.runner.render(replace(self.order, parameters=parameters))


def black(job: RenderJob) -> npt.NDArray[np.uint8]:
    """Four steps and a black clip."""
    for step in range(1, 5):
        job.on_step(step, 4)
    return np.zeros((job.request.num_frames, job.request.height, job.request.width, 3), dtype=np.uint8)


def failing(error: Exception) -> Behaviour:
    """A pipeline that raises this."""

    def fail(job: RenderJob) -> npt.NDArray[np.uint8]:
        raise error

    return fail


def code_of(outcome: Outcome) -> FailureCode | None:
    """Of its failure."""
    return outcome.failure.code if outcome.failure is not None else None
