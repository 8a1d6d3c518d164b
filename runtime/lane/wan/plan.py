"""The keyframes of a request as a plan: which picture stands where, how strongly. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.rules.request import GenerationRequest, ImageReference


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedKeyframe:
    """A picture bound to a frame.

    Attributes:
        frame_index: 0-based, in frames of the clip.
        image: which picture.
        strength: 0 (not at all) to 1 (fully).
    """

    frame_index: int
    image: ImageReference
    strength: float


def required_image(image: ImageReference | None, field: str) -> ImageReference:
    """The image itself. Raises ValueError naming the field when it is missing, which no checked request lets happen."""
    if image is None:
        msg = f"{field} is missing"
        raise ValueError(msg)
    return image


def plan_first_and_last(request: GenerationRequest) -> tuple[PlannedKeyframe, ...]:
    """The two keyframes of `first_last_frame`, with their strengths. Raises ValueError when an image is missing."""
    return (
        PlannedKeyframe(
            frame_index=0,
            image=required_image(request.first_frame_image, "first_frame_image"),
            strength=request.first_strength,
        ),
        PlannedKeyframe(
            frame_index=request.num_frames - 1,
            image=required_image(request.last_frame_image, "last_frame_image"),
            strength=request.last_strength,
        ),
    )
