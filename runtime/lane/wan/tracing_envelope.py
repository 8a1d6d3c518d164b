"""The cheapest linear cost that is nowhere below what was traced."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from runtime.fit.cost import Activations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from runtime.fit.cost import Shape

TOKEN_SLOPES = ("per_token", "per_pixel")
PIXEL_SLOPES = ("per_pixel", "per_frame_pixel")

_TERMS: Mapping[str, Callable[[Shape], float]] = {
    "per_token": lambda shape: shape.tokens,
    "per_pixel": lambda shape: shape.pixels,
    "per_frame_pixel": lambda shape: shape.num_frames * shape.pixels,
}
"""What each coefficient is multiplied with."""

_DIGITS = 6
_TOLERANCE = 1e-9
_WORST_CONDITION = 1e10
"""Beyond it, tight constraints say nearly the same and their corner is not to be trusted; one nearby is as cheap."""


def envelope(traced: Mapping[Shape, int], slopes: Sequence[str] = PIXEL_SLOPES) -> Activations:
    """The coefficients, none negative, whose cost is at least the traced bytes at every point and whose sum of relative excesses is least.

    A linear program of few unknowns: its solution lies where as many of its constraints are tight, so all such corners are tried. The
    coefficients are rounded up, so that they stay above. One point gives a fixed cost.

    Args:
        traced: bytes by size.
        slopes: fields of `Activations` that may be above zero beside `fixed`; pixels together make up tokens, so not all at once.

    Raises:
        ValueError: nothing was traced.
    """
    if not traced:
        msg = "nothing was traced"
        raise ValueError(msg)
    if len(traced) == 1:
        return Activations(fixed=float(max(traced.values())))
    rows = np.array([[1.0, *(_TERMS[slope](shape) for slope in slopes)] for shape in traced], dtype=np.float64)
    wanted = np.array(list(traced.values()), dtype=np.float64)
    # Unknowns and constraints of about one: shares of the largest peak, in terms of the largest size.
    sizes, highest = rows.max(axis=0), wanted.max()
    relative = rows / sizes * (highest / wanted)[:, None]
    # Above each point, and not below zero.
    lines = np.concatenate([relative, np.eye(rows.shape[1])])
    bounds = np.concatenate([np.ones(len(wanted)), np.zeros(rows.shape[1])])
    best = _cheapest_corner(lines, bounds, relative.sum(axis=0)) * (1 + 2 * _TOLERANCE) * highest / sizes
    fixed, *rising = (float(value) for value in best)
    return Activations(
        fixed=float(np.ceil(fixed)) + 1.0, **{slope: _rounded_up(value) for slope, value in zip(slopes, rising, strict=True)}
    )


def scaled(activations: Activations, factor: float) -> Activations:
    """The same cost times a factor, rounded up as `envelope` does."""
    return Activations(
        fixed=float(np.ceil(activations.fixed * factor)),
        per_token=_rounded_up(activations.per_token * factor),
        per_pixel=_rounded_up(activations.per_pixel * factor),
        per_frame_pixel=_rounded_up(activations.per_frame_pixel * factor),
    )


def _cheapest_corner(
    lines: npt.NDArray[np.float64], bounds: npt.NDArray[np.float64], cost: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    corners = np.array(list(combinations(range(len(lines)), lines.shape[1])))
    systems = lines[corners]
    solvable = np.linalg.cond(systems) < _WORST_CONDITION
    found = np.linalg.solve(systems[solvable], bounds[corners[solvable]][:, :, None])[:, :, 0]
    allowed = found[(found @ lines.T >= bounds - _TOLERANCE).all(axis=1)]
    best: npt.NDArray[np.float64] = np.maximum(allowed[np.argmin(allowed @ cost)], 0.0)
    return best


def _rounded_up(value: float) -> float:
    return float(np.ceil(value * 10**_DIGITS) / 10**_DIGITS)
