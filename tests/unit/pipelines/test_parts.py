"""The real pipelines tell each of their phases and steps, so that each has its span."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from runtime.fit.predict import Choice
from runtime.lane.child_protocol import PartEnded, Progressed, Render
from runtime.lane.parts import Part
from runtime.lane.run import Callbacks, Run
from runtime.lane.state import Attempt
from tests.harness.lane_memory import FakeMemory, flat_ladder
from tests.unit.pipelines.jobs import make_job, make_request

if TYPE_CHECKING:
    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("model", "steps"), [("anisora", 8), ("phr00t", 4)])
def test_every_denoising_step_is_timed_when_a_real_pipeline_renders(request: pytest.FixtureRequest, model: str, steps: int) -> None:
    pipeline: Pipeline = request.getfixturevalue(model)
    parts: list[PartEnded] = []

    def tell(event: Progressed | PartEnded) -> None:
        if isinstance(event, PartEnded):
            parts.append(event)

    order = Render(attempt=Attempt(task_id="a", number=1), parameters={}, artifact_prefix="results/a/1/", is_timed=True)
    run = Run(order, FakeMemory(), Callbacks(is_cancelled=lambda _order: False, tell=tell))
    run.begin_try(Choice(rung=flat_ladder(model).rungs[0], peak_bytes=1))
    pipeline.render(make_job(make_request(model, "i2v", num_frames=1), run.on_step, run.on_block, on_phase=run.on_phase))
    run.end_phase()
    one_by_one = [part for part in parts if part.part is not Part.STEP]
    assert [part.part for part in one_by_one if part.part is not Part.PLACE] == [Part.TEXT, Part.KEYFRAMES, Part.DENOISE, Part.DECODE]
    assert all(before.ended_ns <= after.began_ns for before, after in pairwise(one_by_one))
    told = [part for part in parts if part.part is Part.STEP]
    assert [part.figures for part in told] == [{"step": step, "steps": steps} for step in range(1, steps + 1)]
    assert all(before.ended_ns == after.began_ns and after.began_ns < after.ended_ns for before, after in pairwise(told))
