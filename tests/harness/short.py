"""Rows of a test, of which the short form runs some."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _pytest.mark import ParameterSet


def crossed(*axes: Iterable[object], short: Callable[..., bool]) -> list[ParameterSet]:
    """Every combination of the axes for `parametrize`; those that are not `short` run in `make test-all` only."""
    return [pytest.param(*row, marks=() if short(*row) else pytest.mark.long) for row in product(*axes)]
