"""The noise levels of Phr00t's steps: the "beta" schedule over the shifted levels of a flow model. Numbers only, in double precision.

The model's authors advise the schedule by the name that ComfyUI gives it (facts/models.md, section 2). There a flow model has a table of
1000 noise levels, evenly spaced in time and then shifted; the steps take the entries at quantiles of a Beta(0.6, 0.6) distribution, which
stand close at both ends and far apart in the middle.

diffusers' `use_beta_sigmas` is another thing: it puts the *levels* between the highest and the lowest at those quantiles, so that the
shift, which moves what lies between, counts for nothing there; its last step is at the lowest level; and it needs scipy. With 4 steps and
shift 8 its formula gives 1, 0.741, 0.319, 0.060, and this schedule 1, 0.974, 0.889, 0.632.
"""

from __future__ import annotations

import math

TABLE_SIZE = 1000
"""Noise levels in the table, as many as the model has training timesteps."""

_SHAPE = 0.6
"""Both parameters of the distribution (arXiv 2407.12173)."""

_FIRST_SHARE = 1e-4
"""Share of the way by which a first level of 1 is moved for solvers that reckon with log-SNR, which is infinite there."""


def shifted(level: float, shift: float) -> float:
    """The noise level, 0 to 1, that a flow schedule with this shift has where one without has `level`."""
    return shift * level / (1.0 + (shift - 1.0) * level)


def beta_levels(steps: int, shift: float) -> tuple[float, ...]:
    """The noise level of each step, falling, without the 0 at the end. Fewer than `steps` where quantiles share an entry, at many steps."""
    quantiles = (beta_quantile(1.0 - step / steps) for step in range(steps))
    # Halves go to the even entry, as numpy has it.
    entries = dict.fromkeys(round(quantile * (TABLE_SIZE - 1)) for quantile in quantiles)
    return tuple(shifted((entry + 1) / TABLE_SIZE, shift) for entry in entries)


def finite_snr(levels: tuple[float, ...], shift: float) -> tuple[float, ...]:
    """The levels with a first one of 1, all noise, moved to just below."""
    return (shifted(1.0 - _FIRST_SHARE, shift), *levels[1:]) if levels[0] >= 1.0 else levels


def beta_quantile(probability: float) -> float:
    """The value below which a Beta(0.6, 0.6) number is with this probability, 0 to 1."""
    if probability > 0.5:  # the distribution is the same seen from its other end
        return 1.0 - beta_quantile(1.0 - probability)
    if probability == 0.5:  # exactly: half an ulp would decide which entry of the table is the nearest
        return 0.5
    low, high = 0.0, 0.5
    for _ in range(64):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _cumulative(middle) < probability else (low, middle)
    return low


def _cumulative(value: float) -> float:
    """The probability of less than `value`, which is at most 1/2: there the series of the incomplete beta function halves with each
    term."""
    term, total = 1.0, 1.0 / _SHAPE
    for number in range(1, 60):
        term *= value * (number - _SHAPE) / number
        total += term / (_SHAPE + number)
    return math.pow(value, _SHAPE) * total * math.gamma(2.0 * _SHAPE) / math.pow(math.gamma(_SHAPE), 2.0)
