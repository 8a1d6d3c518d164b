"""What `warmlane plan` tells of: sizes that people use, and what each comes to on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runtime.fit.compute import least_denoising_s
from runtime.fit.cost import DeviceLimits, ModelLadder, Shape
from runtime.fit.predict import Choice, choose, largest_frames, largest_size, peak_bytes
from runtime.rules.catalogue import FIELDS, MODELS

SIZES = ((480, 832), (832, 480), (720, 1280), (1280, 720), (640, 640), (512, 512))
FRAMES = (49, 81, 161, 241)

RULES = {rule.name: rule for rule in FIELDS}
MAX_FRAMES = int(RULES["num_frames"].maximum or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one request of the table comes to.

    Attributes:
        choice: None: no placement fits.
        least_peak_bytes: of the placement that needs least.
        largest_frames: at this size; 0: none.
        largest_size: at this frame count.
        least_s: seconds that denoising takes the GPU at its peak; None for a GPU whose peak is not known.
    """

    model: str
    shape: Shape
    choice: Choice | None
    least_peak_bytes: int
    largest_frames: int
    largest_size: tuple[int, int] | None
    least_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the options say; None: every one."""

    model: str | None
    mode: str | None
    size: tuple[int, int] | None
    frames: int | None


def make_rows(ladder: ModelLadder, limits: DeviceLimits, asked: Asked) -> Iterator[Row]:
    """The rows of one model, by size, frame count and mode."""

    def fits(shape: Shape) -> bool:
        return choose(ladder, limits, shape) is not None

    rules = MODELS[ladder.model]
    passes = int(rules.fixed_parameters["steps"].value)
    for shape in shapes(ladder.model, asked):
        yield Row(
            model=ladder.model,
            shape=shape,
            choice=choose(ladder, limits, shape),
            least_peak_bytes=min(peak_bytes(rung, shape) for rung in ladder.rungs),
            largest_frames=largest_frames(fits, shape, rules.frame_multiple, MAX_FRAMES),
            largest_size=largest_size(fits, shape),
            least_s=least_denoising_s(ladder.model, shape.tokens, limits.gpu, passes),
        )


def shapes(model: str, asked: Asked) -> Iterator[Shape]:
    """The sizes to tell of, as the model makes them."""
    multiple = MODELS[model].frame_multiple
    for width, height in SIZES if asked.size is None else (asked.size,):
        for frames in FRAMES if asked.frames is None else (asked.frames,):
            for mode in MODELS[model].modes:
                if asked.mode in (None, mode):
                    num_frames = (frames - 1) // multiple * multiple + 1
                    yield Shape(width=width, height=height, num_frames=num_frames, mode=mode)
