"""Frozen dataclasses that are made quickly are like any others."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from runtime.values import changed, quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Of every kind of field."""

    x: int
    name: str = "origin"
    notes: Mapping[str, int] = field(default_factory=dict)
    hint: int = field(default=0, compare=False)


@quickly_made
@dataclass(frozen=True, slots=True)
class Pair:
    """Made by position."""

    first: int
    second: int = 2


def test_defaults_are_filled_in_and_no_factory_s_value_is_shared_when_a_value_is_made() -> None:
    one, other = Point(x=1), Point(x=1)
    assert (one.x, one.name, one.notes, one.hint) == (1, "origin", {}, 0)
    assert one.notes is not other.notes
    assert (Pair(1).second, Pair(1, 3).second, Pair(second=4, first=1).second) == (2, 3, 4)


def test_a_value_cannot_be_changed_when_it_is_made() -> None:
    point = Point(x=1)
    assert type(point) is Point
    with pytest.raises(FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del point.x
    with pytest.raises((AttributeError, TypeError)):
        point.more = 2  # type: ignore[attr-defined]


def test_values_are_equal_and_hash_alike_when_what_is_compared_is() -> None:
    assert Pair(1) == Pair(1, 2) != Pair(1, 3)
    assert hash(Pair(1)) == hash(Pair(1, 2))
    assert Point(x=1, hint=1) == Point(x=1, hint=2)
    assert repr(Pair(1)) == "Pair(first=1, second=2)"


def test_a_copy_is_whole_when_a_value_is_copied_pickled_or_replaced() -> None:
    point = Point(x=1, notes={"a": 1}, hint=3)
    assert copy.copy(point) == copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == replace(point) == point  # noqa: S301 - our own bytes
    assert replace(point, x=2) == changed(point, x=2)


def test_nothing_else_differs_when_a_value_is_changed() -> None:
    point = Point(x=1, notes={"a": 1}, hint=3)
    moved = changed(point, x=2)
    assert (type(moved), moved.x, moved.name, moved.notes, moved.hint) == (Point, 2, "origin", {"a": 1}, 3)
    assert point.x == 1
    with pytest.raises(FrozenInstanceError):
        moved.x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        changed(point, y=1)


@pytest.mark.parametrize("arguments", [{}, {"x": 1, "y": 2}])
def test_a_call_is_refused_when_its_arguments_do_not_fit(arguments: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Point(**arguments)  # type: ignore[arg-type]


def test_a_class_is_refused_when_it_is_no_plain_frozen_dataclass() -> None:
    @dataclass(slots=True)
    class Loose:
        x: int

    @dataclass(frozen=True)
    class Slotless:
        x: int

    @dataclass(frozen=True, slots=True)
    class Derived(Pair):
        third: int = 3

    @dataclass(frozen=True, slots=True)
    class Computed:
        x: int
        y: int = field(init=False, default=1)

    for wrong in (Loose, Slotless, Derived, Computed, int):
        with pytest.raises(TypeError):
            quickly_made(wrong)
