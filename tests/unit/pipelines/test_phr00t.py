"""Phr00t renders every mode, and everything of a request that matters reaches the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.lane.renderer import RenderCancelled
from tests.unit.pipelines.jobs import COLD, WARM, inner, make_job, make_request

if TYPE_CHECKING:
    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("mode", ["t2v", "i2v", "first_last_frame"])
@pytest.mark.parametrize("num_frames", [1, 9, 13])
def test_frames_have_the_asked_shape_when_rendered_in_each_mode(phr00t: Pipeline, mode: str, num_frames: int) -> None:
    frames = phr00t.render(make_job(make_request("phr00t", mode, num_frames=num_frames, width=64, height=96)))

    assert frames.dtype == np.uint8
    assert frames.shape == (num_frames, 96, 64, 3)
    assert frames.std() > 10  # not one flat colour


@pytest.mark.parametrize("mode", ["t2v", "first_last_frame"])
def test_bytes_are_the_same_when_the_same_job_runs_again(phr00t: Pipeline, mode: str) -> None:
    job = make_job(make_request("phr00t", mode))

    assert np.array_equal(phr00t.render(job), phr00t.render(job))


@pytest.mark.parametrize(
    ("mode", "after"),
    [
        ("t2v", {"seed": 8}),
        ("t2v", {"prompt": "a fox rons over a snowy hill"}),
        ("t2v", {"lighting_variant": "high_noise"}),
        ("i2v", {"reference_image": COLD}),
        ("i2v", {"reference_strength": 0.5}),
        ("first_last_frame", {"first_frame_image": COLD}),
        ("first_last_frame", {"last_frame_image": WARM}),
        ("first_last_frame", {"first_strength": 0.5}),
        ("first_last_frame", {"last_strength": 0.5}),
    ],
)
def test_picture_changes_when_one_field_changes(phr00t: Pipeline, mode: str, after: dict[str, Any]) -> None:
    one = phr00t.render(make_job(make_request("phr00t", mode)))
    other = phr00t.render(make_job(make_request("phr00t", mode, **after)))

    assert not np.array_equal(one, other)


def test_picture_is_that_of_t2v_when_the_reference_counts_nothing(phr00t: Pipeline) -> None:
    plain = phr00t.render(make_job(make_request("phr00t")))

    assert np.array_equal(plain, phr00t.render(make_job(make_request("phr00t", "i2v", reference_strength=0.0))))


def test_one_pass_runs_per_step_when_rendering(phr00t: Pipeline) -> None:
    calls, steps = list[str](), list[tuple[int, int]]()
    hook = inner(phr00t).transformer.register_forward_pre_hook(lambda *_: calls.append("pass"))
    try:
        request = make_request("phr00t", "i2v", guidance_scale=5.0, negative_prompt="rain")
        phr00t.render(make_job(request, lambda step, of: steps.append((step, of))))
    finally:
        hook.remove()

    assert len(calls) == 4
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("variant", "timesteps"), [("low_noise", [1000, 974, 889, 632]), ("high_noise", [1000, 983, 923, 721])])
def test_more_steps_stay_at_high_noise_when_the_variant_is_high_noise(phr00t: Pipeline, variant: str, timesteps: list[int]) -> None:
    seen: list[int] = []
    hook = inner(phr00t).transformer.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(round(float(named["timestep"]))), with_kwargs=True
    )
    try:
        phr00t.render(make_job(make_request("phr00t", lighting_variant=variant)))
    finally:
        hook.remove()

    assert seen == timesteps


def test_pipeline_renders_the_same_when_the_attempt_before_was_cancelled(phr00t: Pipeline) -> None:
    job = make_job(make_request("phr00t", "i2v"))
    before = phr00t.render(job)

    def cancel(_step: int, _steps: int) -> None:
        raise RenderCancelled

    with pytest.raises(RenderCancelled):
        phr00t.render(make_job(job.request, cancel))

    assert np.array_equal(before, phr00t.render(job))
