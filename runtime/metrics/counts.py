"""Counters and histograms that cost next to nothing where they count: one event loop counts and reads them, so nothing locks.

The library's own take a lock and look a series up in several steps: some 3 us for a series with labels, where these take a fraction.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from runtime.metrics.definition import Definition

Labels = tuple[str, ...]
"""Values of a series's labels, in the order of the definition."""


class Counts:
    """A counter: a number for each series that was ever counted."""

    def __init__(self, definition: Definition) -> None:
        """Without labels its one series begins with 0."""
        self._definition = definition
        self._values: dict[Labels, float] = {} if definition.labels else {(): 0.0}

    def add(self, labels: Labels = (), by: float = 1.0) -> None:
        """Counts; 0 makes a series begin."""
        self._values[labels] = self._values.get(labels, 0.0) + by

    def forget(self, is_over: Callable[[Labels], bool]) -> None:
        """Drops series."""
        self._values = {labels: value for labels, value in self._values.items() if not is_over(labels)}

    def describe(self) -> Iterable[CounterMetricFamily]:
        """The metric without values; asked for when the collector is registered."""
        return (self._family(),)

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The metric as it stands."""
        family = self._family()
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        return (family,)

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._definition.name, self._definition.meaning, labels=self._definition.labels)


class Spreads:
    """A histogram: for each series how many values came into which bucket, and their sum."""

    def __init__(self, definition: Definition) -> None:
        """Without labels its one series begins empty."""
        self._definition = definition
        self._bounds = definition.buckets
        self._names = (*map(floatToGoString, definition.buckets), "+Inf")
        self._sums: dict[Labels, float] = {}
        self._counts: dict[Labels, list[int]] = {}
        if not definition.labels:
            self.begin()

    def begin(self, labels: Labels = ()) -> None:
        """Makes a series begin, empty."""
        self._sums.setdefault(labels, 0.0)
        self._counts.setdefault(labels, [0] * len(self._names))

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Takes a value in."""
        counts = self._counts.get(labels)
        if counts is None:
            self.begin(labels)
            counts = self._counts[labels]
        # A value at a bound belongs below it.
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """The metric without values; asked for when the collector is registered."""
        return (self._family(),)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The metric as it stands."""
        family = self._family()
        for labels, counts in self._counts.items():
            family.add_metric(labels, list(zip(self._names, accumulate(counts), strict=True)), self._sums[labels])
        return (family,)

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._definition.name, self._definition.meaning, labels=self._definition.labels)
