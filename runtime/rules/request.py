"""A generation request whose every value is known, and what is wrong with one that is not."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.values import quickly_made


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReference:
    """An input image that a door decoded, checked and stored.

    Attributes:
        key: key in the object store, `inputs/<sha256 of the file as lower-case hex>`.
    """

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArbitraryFrame:
    """A keyframe: the picture at `frame_index` (0-based, in frames of the clip) with its strength (0.1 to 1)."""

    frame_index: int
    image: ImageReference
    strength: float


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One video to render. Made by `check.check_request` only, so an instance is always within the rules.

    Fields and limits are those of `warmlane.generation.v1.GenerationRequest`. A field that the model does not use holds its default.

    Attributes:
        seed: -1 asks for a random one; `effective.effective` replaces it before a task is made.
        steps: denoising steps; the model's fixed value.
        cfg_scale: 1.0; fixed for phr00t, unused by anisora.
    """

    model: str
    mode: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    seed: int
    output_format: str
    num_frames: int
    fps: int
    steps: int
    cfg_scale: float
    guidance_scale: float
    motion_score: float
    lighting_variant: str
    reference_strength: float
    denoising_strength: float
    first_strength: float
    last_strength: float
    reference_image: ImageReference | None = None
    first_frame_image: ImageReference | None = None
    last_frame_image: ImageReference | None = None
    arbitrary_frames: tuple[ArbitraryFrame, ...] = ()

    def images(self) -> tuple[ImageReference, ...]:
        """Every image the request names, in field order."""
        single = (self.reference_image, self.first_frame_image, self.last_frame_image)
        return tuple(image for image in single if image is not None) + tuple(frame.image for frame in self.arbitrary_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that is wrong: the field by its contract name (`arbitrary_frames[2].strength`) and a sentence that says what to do."""

    field: str
    message: str


class InvalidRequestError(Exception):
    """The request breaks the rules; `violations` names every field, never empty."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        """Keeps the violations, in field order."""
        super().__init__("; ".join(f"{violation.field}: {violation.message}" for violation in violations))
        self.violations = violations
