"""Phr00t's parameters: the sampler advice for the Mega model, and how a request becomes a keyframe plan. No torch here.

Numbers are those of the model card and a public workflow (facts/models.md, section 2).

Strength. `reference_strength` (`i2v`) is VACE's conditioning scale: how much the control branch adds to every layer. `first_strength` and
`last_strength` (`first_last_frame`) blend the keyframe toward mid-grey, the value that VACE uses for "nothing known here", so the two ends
can differ; the conditioning scale is then 1. `t2v` runs with scale 0 and no video. `denoising_strength` is not used by any video mode.

Lighting. `lighting_variant` chooses the shift of the noise schedule. `low_noise` is the advised 8: steps at noise levels 1, 0.974, 0.889
and 0.632. `high_noise` is 12: steps at 1, 0.983, 0.923 and 0.721, so that all of them stay where light and composition are decided, and the
last one, from there to the picture, is longer.

Sampler. The author advises one for each range of versions; see `Sampler`. 4 steps and guidance 1 are the same for all.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from runtime.lane.wan.plan import PlannedKeyframe, plan_first_and_last, required_image

if TYPE_CHECKING:
    from runtime.rules.request import GenerationRequest

MODEL = "phr00t"

GUIDANCE_SCALE = 1.0
"""The model is distilled for guidance 1, so no unconditional pass ever runs."""

DEFAULT_LIGHTING = "low_noise"

FLOW_SHIFTS = {"low_noise": 8.0, "high_noise": 12.0}
"""Shift of the noise schedule by lighting variant."""

_VARIANT = re.compile(r"mega-v(\d+)(\.\d+)?")
_FIRST_EULER_VERSION, _FIRST_SDE_VERSION = 4, 12


class Sampler(StrEnum):
    """A sampler by the name that the author's advice gives it. Both run over the "beta" schedule."""

    EULER_ANCESTRAL = "euler_a"
    """Advised for Mega v4 to v11. 4 steps are 4 passes of the transformer."""
    DPM_SOLVER_SDE = "dpmpp_sde"
    """Advised for Mega v12. 4 steps are 7 passes: two a step, one in the last."""


def advised_sampler(variant: str) -> Sampler:
    """The sampler for a checkpoint of this variant, such as `mega-v12`.

    Without a variant, as for tiny parts, it is that of most versions, which also takes fewer passes.

    Raises:
        ValueError: it is no Mega version that one of these samplers is advised for.
    """
    if not variant:
        return Sampler.EULER_ANCESTRAL
    found = _VARIANT.fullmatch(variant)
    version = int(found[1]) if found else 0
    if version < _FIRST_EULER_VERSION:
        msg = f"phr00t has no sampler for the variant {variant!r}: mega-v{_FIRST_EULER_VERSION} and later are served"
        raise ValueError(msg)
    return Sampler.DPM_SOLVER_SDE if version >= _FIRST_SDE_VERSION else Sampler.EULER_ANCESTRAL


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
