"""Phr00t's parameters: the sampler advice for the Mega model, and how a request becomes a keyframe plan. No torch here.

Numbers are those of the model card and a public workflow (facts/models.md, section 2).

Strength. `reference_strength` (`i2v`) is VACE's conditioning scale: how much the control branch adds to every layer. `first_strength` and
`last_strength` (`first_last_frame`) blend the keyframe toward mid-grey, the value that VACE uses for "nothing known here", so the two ends
can differ; the conditioning scale is then 1. `t2v` runs with scale 0 and no video. `denoising_strength` is not used by any video mode.

Lighting. `lighting_variant` chooses the shift of the flow schedule: `low_noise` is the advised 8, `high_noise` is 12, which keeps more of
the four steps at high noise, where light and composition are decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.lane.wan.plan import PlannedKeyframe, plan_first_and_last, required_image

if TYPE_CHECKING:
    from runtime.rules.request import GenerationRequest

MODEL = "phr00t"

GUIDANCE_SCALE = 1.0
"""The model is distilled for guidance 1, so no unconditional pass ever runs."""

DEFAULT_LIGHTING = "low_noise"

FLOW_SHIFTS = {"low_noise": 8.0, "high_noise": 12.0}
"""Shift of the flow-matching Euler schedule by lighting variant."""


def flow_shift(lighting_variant: str) -> float:
    """The schedule's shift. Raises ValueError when the variant is unknown."""
    if lighting_variant not in FLOW_SHIFTS:
        msg = f"phr00t has no lighting variant {lighting_variant!r}"
        raise ValueError(msg)
    return FLOW_SHIFTS[lighting_variant]


def conditioning_scale(request: GenerationRequest) -> float:
    """How much VACE's control branch counts, 0 to 1."""
    match request.mode:
        case "t2v":
            return 0.0
        case "i2v":
            return request.reference_strength
        case _:
            return 1.0


def plan_keyframes(request: GenerationRequest) -> tuple[PlannedKeyframe, ...]:
    """The keyframes of an effective request, in field order; none for `t2v`.

    Raises:
        ValueError: the mode is not one of Phr00t's, or an image that it needs is missing.
    """
    match request.mode:
        case "t2v":
            return ()
        case "i2v":
            image = required_image(request.reference_image, "reference_image")
            return (PlannedKeyframe(frame_index=0, image=image, strength=1.0),)
        case "first_last_frame":
            return plan_first_and_last(request)
        case _:
            msg = f"phr00t has no mode {request.mode!r}"
            raise ValueError(msg)
