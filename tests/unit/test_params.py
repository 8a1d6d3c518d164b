"""What the two models make of a request's parameters, without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

import lane_anisora.params as anisora
import lane_phr00t.params as phr00t
from runtime.lane.wan.plan import PlannedKeyframe
from runtime.rules.request import ArbitraryFrame, GenerationRequest, ImageReference

ONE, TWO = ImageReference(key="inputs/one"), ImageReference(key="inputs/two")

REQUEST = GenerationRequest(
    model="anisora",
    mode="t2v",
    prompt="a fox",
    negative_prompt="",
    width=512,
    height=512,
    seed=1,
    output_format="mp4",
    num_frames=17,
    fps=16,
    steps=8,
    cfg_scale=1.0,
    guidance_scale=1.0,
    motion_score=3.0,
    lighting_variant="low_noise",
    reference_strength=0.85,
    denoising_strength=0.7,
    first_strength=0.9,
    last_strength=0.6,
    reference_image=ONE,
    first_frame_image=ONE,
    last_frame_image=TWO,
    arbitrary_frames=(
        ArbitraryFrame(frame_index=8, image=TWO, strength=0.4),
        ArbitraryFrame(frame_index=16, image=ONE, strength=1.0),
    ),
)

ENDS = (
    PlannedKeyframe(frame_index=0, image=ONE, strength=0.9),
    PlannedKeyframe(frame_index=16, image=TWO, strength=0.6),
)


@pytest.mark.parametrize(("asked", "told"), [(0.0, "2.0"), (2.0, "2.0"), (3.25, "3.2"), (4.0, "4.0"), (5.0, "4.0")])
def test_motion_score_is_kept_in_the_trained_range_when_the_ending_is_made(asked: float, told: str) -> None:
    expected = f"aesthetic score: 5.5. motion score: {told}. There is no text in the video."

    assert anisora.prompt_suffix(asked) == expected


@pytest.mark.parametrize(
    ("mode", "keyframes"),
    [
        ("t2v", ()),
        ("i2v", (PlannedKeyframe(frame_index=0, image=ONE, strength=0.85),)),
        ("first_last_frame", ENDS),
        (
            "arbitrary_frame",
            (
                PlannedKeyframe(frame_index=8, image=TWO, strength=0.4),
                PlannedKeyframe(frame_index=16, image=ONE, strength=1.0),
            ),
        ),
    ],
)
def test_anisora_keyframes_have_their_strengths_when_planned(mode: str, keyframes: tuple[PlannedKeyframe, ...]) -> None:
    assert anisora.plan_keyframes(replace(REQUEST, mode=mode)) == keyframes


@pytest.mark.parametrize(
    ("mode", "keyframes", "scale"),
    [
        ("t2v", (), 0.0),
        ("i2v", (PlannedKeyframe(frame_index=0, image=ONE, strength=1.0),), 0.85),
        ("first_last_frame", ENDS, 1.0),
    ],
)
def test_phr00t_keyframes_and_control_scale_fit_the_mode_when_planned(
    mode: str, keyframes: tuple[PlannedKeyframe, ...], scale: float
) -> None:
    request = replace(REQUEST, model="phr00t", mode=mode)

    assert phr00t.plan_keyframes(request) == keyframes
    assert phr00t.conditioning_scale(request) == scale


def test_shift_follows_the_lighting_variant_when_known() -> None:
    assert phr00t.flow_shift("low_noise") == 8.0
    assert phr00t.flow_shift("high_noise") == 12.0
    with pytest.raises(ValueError, match="dusk"):
        phr00t.flow_shift("dusk")


@pytest.mark.parametrize(
    ("variant", "sampler"),
    [("", "euler_a"), ("mega-v4", "euler_a"), ("mega-v11", "euler_a"), ("mega-v12", "dpmpp_sde"), ("mega-v12.1", "dpmpp_sde")],
)
def test_sampler_is_the_advised_one_when_a_version_is_known(variant: str, sampler: str) -> None:
    assert phr00t.advised_sampler(variant) == sampler


@pytest.mark.parametrize("variant", ["mega-v3", "v10", "mega-v", "mega-v12-other"])
def test_versions_are_refused_when_no_sampler_of_ours_is_advised(variant: str) -> None:
    with pytest.raises(ValueError, match=variant):
        phr00t.advised_sampler(variant)


def test_unknown_modes_and_missing_images_are_refused_when_planned() -> None:
    with pytest.raises(ValueError, match="no mode 'txt2img'"):
        anisora.plan_keyframes(replace(REQUEST, mode="txt2img"))
    with pytest.raises(ValueError, match="no mode 'arbitrary_frame'"):
        phr00t.plan_keyframes(replace(REQUEST, mode="arbitrary_frame"))
    with pytest.raises(ValueError, match="reference_image"):
        anisora.plan_keyframes(replace(REQUEST, mode="i2v", reference_image=None))
    with pytest.raises(ValueError, match="last_frame_image"):
        phr00t.plan_keyframes(replace(REQUEST, mode="first_last_frame", last_frame_image=None))


def test_torch_stays_out_when_parameters_are_imported() -> None:
    code = "import lane_anisora.params, lane_phr00t.params, sys; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
