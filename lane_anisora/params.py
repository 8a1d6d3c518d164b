"""AniSora's parameters: what its authors fix, and how a request becomes a prompt text and a keyframe plan. No torch here.

Numbers are those of the authors' V3.2 configuration and commands (facts/models.md, section 1).

Strength. Every keyframe is placed in one sparse video that the VAE encodes once; the condition latents of the keyframe's latent frame are
then scaled by its strength, while the mask that says "a keyframe stands here" stays binary. `i2v` takes `reference_strength`,
`first_last_frame` takes `first_strength` and `last_strength`, `arbitrary_frame` each frame's own. Zero therefore means: the model is told
of a keyframe and sees an average picture there. `denoising_strength` is not used by any video mode.

Text to video. The authors publish image-to-video weights only. `t2v` therefore runs the same experts with an empty condition, or, where the
model's folder has one, a text-to-video pair of the base model (Wan2.2 T2V A14B, or one made from it) with that model's own boundary and
shift. Steps are 8 either way. A pair that was not distilled wants more steps and guidance 3 to 4 than this; its authors' are 40.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.lane.wan.plan import PlannedKeyframe, plan_first_and_last, required_image

if TYPE_CHECKING:
    from runtime.rules.request import GenerationRequest

MODEL = "anisora"

TEXT_TO_VIDEO_BOUNDARY_RATIO = 0.875
TEXT_TO_VIDEO_FLOW_SHIFT = 12.0
"""Of a text-to-video pair: `boundary` and `sample_shift` in `wan/configs/wan_t2v_A14B.py` of Wan2.2. 6 and 2 of the 8 steps."""

BOUNDARY_RATIO = 0.9
"""The high-noise expert works at timesteps of at least 0.9 of 1000, the low-noise expert below: 3 and 5 of the 8 steps."""

FLOW_SHIFT = 5.0
"""Shift of the UniPC flow schedule (the authors' `--sample_shift 5`)."""

AESTHETIC_SCORE = 5.5
"""The value of the authors' own examples, out of 5.0 to 7.0."""

MOTION_SCORE_RANGE = (2.0, 4.0)
"""Motion scores the model was trained on. The contract admits 0 to 5; values outside are clamped, not refused."""


def prompt_suffix(motion_score: float) -> str:
    """The sentence parts that the authors require after every prompt, with the motion score clamped to `MOTION_SCORE_RANGE`."""
    lowest, highest = MOTION_SCORE_RANGE
    motion = min(max(motion_score, lowest), highest)
    return f"aesthetic score: {AESTHETIC_SCORE:.1f}. motion score: {motion:.1f}. There is no text in the video."


def plan_keyframes(request: GenerationRequest) -> tuple[PlannedKeyframe, ...]:
    """The keyframes of an effective request, in field order; none for `t2v`.

    Raises:
        ValueError: the mode is not one of AniSora's, or an image that it needs is missing.
    """
    match request.mode:
        case "t2v":
            return ()
        case "i2v":
            image = required_image(request.reference_image, "reference_image")
            return (PlannedKeyframe(frame_index=0, image=image, strength=request.reference_strength),)
        case "first_last_frame":
            return plan_first_and_last(request)
        case "arbitrary_frame":
            return tuple(
                PlannedKeyframe(frame_index=frame.frame_index, image=frame.image, strength=frame.strength)
                for frame in request.arbitrary_frames
            )
        case _:
            msg = f"anisora has no mode {request.mode!r}"
            raise ValueError(msg)
