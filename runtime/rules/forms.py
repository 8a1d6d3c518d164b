"""What forms offer for a parameter: the controls that the frontend's settings file lists. The catalogue says which model has which."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FormControl:
    """What a form offers for a parameter. Never wider than the server's limits, often narrower; the server does not enforce it.

    Attributes:
        default: value that the form starts with; the server's own default.
        minimum, maximum, step: of a slider; None for a list or a text.
        options: of a list; empty for a slider or a text.
        max_length: of a text, in characters; None for numbers and lists.
        is_expected: a settings file that lacks it is incomplete; without the others a form leaves the server's default.
    """

    default: str | int | float
    minimum: int | float | None = None
    maximum: int | float | None = None
    step: int | float | None = None
    options: tuple[str | int, ...] = ()
    max_length: int | None = None
    is_expected: bool = False

    def to_json(self) -> dict[str, object]:
        """As the frontend's settings file spells it: `default`, and `min`, `max`, `step`, or `options`, or `max_length`."""
        if self.options:
            return {"default": self.default, "options": list(self.options)}
        if self.max_length is not None:
            return {"default": self.default, "max_length": self.max_length}
        return {"default": self.default, "min": self.minimum, "max": self.maximum, "step": self.step}


# The frontend's slider is narrower than the server's 1 to 241, and the same for both models.
FRAMES = FormControl(default=81, minimum=49, maximum=161, step=4, is_expected=True)
FPS = FormControl(default=16, options=(8, 16, 24), is_expected=True)
MOTION_SCORE = FormControl(default=3.0, minimum=0, maximum=5, step=0.1, is_expected=True)
LIGHTING_VARIANT = FormControl(default="low_noise", options=("high_noise", "low_noise"), is_expected=True)
GUIDANCE_SCALE = FormControl(default=1.0, minimum=0, maximum=20, step=0.5)

_KEYFRAME_STRENGTH = FormControl(default=1.0, minimum=0.5, maximum=1, step=0.05)

EVERY_MODEL: dict[str, FormControl] = {
    "negative_prompt": FormControl(default="", max_length=1000),
    # Any size is taken; a slider offers the sizes that are rendered as asked.
    "width": FormControl(default=720, minimum=256, maximum=2048, step=16),
    "height": FormControl(default=1280, minimum=256, maximum=2048, step=16),
    "seed": FormControl(default=-1, minimum=-1, maximum=2_147_483_647, step=1),
    "output_format": FormControl(default="mp4", options=("mp4", "webm")),
    "num_frames": FRAMES,
    "fps": FPS,
    "reference_strength": FormControl(default=0.85, minimum=0, maximum=1, step=0.05),
    "first_strength": _KEYFRAME_STRENGTH,
    "last_strength": _KEYFRAME_STRENGTH,
}
"""Controls that every video model has."""
