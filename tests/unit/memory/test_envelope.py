"""The envelope of traced points is linear, nowhere below them, and as low as that allows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy")

from runtime.fit.cost import Activations, Shape
from runtime.lane.wan.tracing_envelope import TOKEN_SLOPES, envelope

pytestmark = pytest.mark.torch

_SHAPES = tuple(
    Shape(width=width, height=height, num_frames=frames)
    for width, height in ((256, 256), (832, 480), (1280, 720))
    for frames in (1, 5, 49, 161)
)

_COEFFICIENT = st.floats(min_value=0, max_value=1e5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(min_value=10**6, max_value=10**11), min_size=len(_SHAPES), max_size=len(_SHAPES)))
def test_no_point_is_above_it_whatever_was_traced(peaks: list[int]) -> None:
    traced = dict(zip(_SHAPES, peaks, strict=True))
    cost = envelope(traced)
    assert all(cost.bytes_at(shape) >= peak for shape, peak in traced.items())
    assert min(cost.fixed, cost.per_token, cost.per_pixel, cost.per_frame_pixel) >= 0


@settings(max_examples=25, deadline=None)
@given(st.floats(min_value=1e6, max_value=1e9), _COEFFICIENT, _COEFFICIENT)
def test_it_goes_through_the_points_when_they_are_linear(fixed: float, per_pixel: float, per_frame_pixel: float) -> None:
    true = Activations(fixed=fixed, per_pixel=per_pixel, per_frame_pixel=per_frame_pixel)
    cost = envelope({shape: true.bytes_at(shape) for shape in _SHAPES})
    for shape in _SHAPES:
        assert true.bytes_at(shape) <= cost.bytes_at(shape) <= true.bytes_at(shape) * 1.0001 + 1000


def test_only_the_asked_coefficients_are_used_when_some_are_left_out() -> None:
    cost = envelope({shape: 1000 + 70 * shape.tokens for shape in _SHAPES}, TOKEN_SLOPES)
    assert cost.per_frame_pixel == 0.0
    assert cost.per_token == pytest.approx(70, rel=1e-6)


def test_it_is_constant_when_one_point_was_traced() -> None:
    assert envelope({_SHAPES[0]: 12345}) == Activations(fixed=12345.0)


def test_it_is_refused_when_nothing_was_traced() -> None:
    with pytest.raises(ValueError, match="nothing was traced"):
        envelope({})
