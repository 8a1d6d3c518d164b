"""AniSora renders every mode, and everything of a request that matters reaches the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.lane.renderer import RenderCancelled
from runtime.rules.request import ArbitraryFrame, GenerationRequest
from tests.unit.pipelines.jobs import COLD, WARM, inner, make_job, make_request

if TYPE_CHECKING:
    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch

KEYFRAMES = (
    ArbitraryFrame(frame_index=0, image=WARM, strength=1.0),
    ArbitraryFrame(frame_index=8, image=COLD, strength=0.85),
    ArbitraryFrame(frame_index=16, image=WARM, strength=0.85),
)


def request_for(mode: str, **changes: Any) -> GenerationRequest:
    if mode == "arbitrary_frame":
        changes = {"num_frames": 17, "arbitrary_frames": KEYFRAMES} | changes
    return make_request("anisora", mode, **changes)


@pytest.mark.parametrize("mode", ["t2v", "i2v", "first_last_frame", "arbitrary_frame"])
def test_frames_have_the_asked_shape_when_rendered_in_each_mode(anisora: Pipeline, mode: str) -> None:
    request = request_for(mode, width=96, height=64)

    frames = anisora.render(make_job(request))

    assert frames.dtype == np.uint8
    assert frames.shape == (request.num_frames, 64, 96, 3)
    assert frames.std() > 10  # not one flat colour


@pytest.mark.parametrize("mode", ["t2v", "i2v", "first_last_frame"])
def test_clip_of_one_frame_is_rendered_when_asked(anisora: Pipeline, mode: str) -> None:
    assert anisora.render(make_job(request_for(mode, num_frames=1))).shape == (1, 64, 64, 3)


@pytest.mark.parametrize("mode", ["t2v", "arbitrary_frame"])
def test_bytes_are_the_same_when_the_same_job_runs_again(anisora: Pipeline, mode: str) -> None:
    job = make_job(request_for(mode))

    assert np.array_equal(anisora.render(job), anisora.render(job))


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("t2v", {}, {"seed": 8}),
        ("t2v", {}, {"prompt": "a fox rons over a snowy hill"}),
        ("t2v", {}, {"motion_score": 3.5}),
        ("t2v", {}, {"guidance_scale": 3.0}),
        ("t2v", {"guidance_scale": 3.0}, {"guidance_scale": 3.0, "negative_prompt": "rain"}),
        ("i2v", {}, {"reference_image": COLD}),
        ("i2v", {}, {"reference_strength": 0.5}),
        ("first_last_frame", {}, {"first_frame_image": COLD}),
        ("first_last_frame", {}, {"last_frame_image": WARM}),
        ("first_last_frame", {}, {"first_strength": 0.5}),
        ("first_last_frame", {}, {"last_strength": 0.5}),
        ("arbitrary_frame", {}, {"arbitrary_frames": KEYFRAMES[:2]}),
        ("arbitrary_frame", {}, {"arbitrary_frames": (*KEYFRAMES[:2], ArbitraryFrame(frame_index=16, image=WARM, strength=0.3))}),
    ],
)
def test_picture_changes_when_one_field_changes(anisora: Pipeline, mode: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    one = anisora.render(make_job(request_for(mode, **before)))
    other = anisora.render(make_job(request_for(mode, **after)))

    assert np.abs(one.astype(int) - other).max() >= 4


def test_negative_prompt_changes_nothing_when_guidance_is_one(anisora: Pipeline) -> None:
    plain = anisora.render(make_job(request_for("t2v")))

    assert np.array_equal(plain, anisora.render(make_job(request_for("t2v", negative_prompt="rain"))))


def test_later_frames_change_most_when_a_keyframe_stands_in_the_middle(anisora: Pipeline) -> None:
    keyframe = (ArbitraryFrame(frame_index=8, image=COLD, strength=1.0),)
    plain = anisora.render(make_job(request_for("t2v", num_frames=17)))
    keyed = anisora.render(make_job(request_for("arbitrary_frame", arbitrary_frames=keyframe)))

    change = np.abs(plain.astype(int) - keyed).mean(axis=(1, 2, 3))
    assert change[8:].mean() > 2 * change[:4].mean()


def test_experts_switch_once_when_eight_steps_run(anisora: Pipeline) -> None:
    pipe, calls = inner(anisora), list[str]()
    hooks = [
        pipe.transformer.register_forward_pre_hook(lambda *_: calls.append("high")),
        pipe.transformer_2.register_forward_pre_hook(lambda *_: calls.append("low")),
    ]
    try:
        anisora.render(make_job(request_for("t2v")))
    finally:
        for hook in hooks:
            hook.remove()

    # UniPC with shift 5: 999, 972, 937 are at least 900; 893, 833, 750, 625, 418 are below. No unconditional pass at guidance 1.
    assert calls == ["high"] * 3 + ["low"] * 5


def test_every_step_is_told_when_rendering(anisora: Pipeline) -> None:
    steps: list[tuple[int, int]] = []

    anisora.render(make_job(request_for("t2v"), lambda step, of: steps.append((step, of))))

    assert steps == [(step, 8) for step in range(1, 9)]


def test_pipeline_renders_the_same_when_the_attempt_before_was_cancelled(anisora: Pipeline) -> None:
    request = request_for("i2v")
    before = anisora.render(make_job(request))

    def cancel(step: int, _steps: int) -> None:
        if step == 4:
            raise RenderCancelled

    with pytest.raises(RenderCancelled):
        anisora.render(make_job(request, cancel))

    assert np.array_equal(before, anisora.render(make_job(request)))


def test_nothing_is_printed_when_loading_and_rendering(anisora: Pipeline, capfd: pytest.CaptureFixture[str]) -> None:
    anisora.render(make_job(request_for("i2v")))

    assert capfd.readouterr() == ("", "")


def test_prompt_carries_the_required_ending_when_it_reaches_the_text_encoder(anisora: Pipeline) -> None:
    pipe, seen = inner(anisora), list[str]()
    decode = pipe.tokenizer.decode
    hook = pipe.text_encoder.register_forward_pre_hook(lambda _module, args: seen.append(decode(args[0][0], skip_special_tokens=True)))
    try:
        anisora.render(make_job(request_for("t2v", prompt="狐狸 " * 400, motion_score=5.0)))
    finally:
        hook.remove()

    (text,) = seen
    assert text.startswith("狐狸 狐狸")
    assert text.endswith("aesthetic score: 5.5. motion score: 4.0. There is no text in the video.")
