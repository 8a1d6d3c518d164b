"""A metric as data: its name, its labels and what it means. Processes make their metrics from these, and the reference page its table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from runtime.metrics.counts import Counts, Spreads

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

PREFIX = "warmlane_"


class Kind(StrEnum):
    """What Prometheus may do with the values."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One metric of one kind of process.

    Attributes:
        name: whole, as it is scraped; a histogram's without `_bucket`, `_sum` and `_count`.
        meaning: a sentence for people, the metric's HELP.
        labels: names; their values are bounded by what is configured: models, lanes, codes, methods; never by what is asked for.
        buckets: upper bounds of a histogram, rising, in the unit of the name.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def counter(self, registry: CollectorRegistry) -> Counts:
        """The counter, in this registry."""
        counts = Counts(self)
        registry.register(counts)
        return counts

    def gauge(self, registry: CollectorRegistry, read: Callable[[], float]) -> None:
        """A gauge without labels, in this registry; `read` gives its value when somebody asks."""
        Gauge(self.name, self.meaning, registry=registry).set_function(read)

    def histogram(self, registry: CollectorRegistry) -> Spreads:
        """The histogram, in this registry."""
        spreads = Spreads(self)
        registry.register(spreads)
        return spreads

    def gauges(self) -> GaugeMetricFamily:
        """For values that are read when they are asked for: `add_metric` them."""
        return GaugeMetricFamily(self.name, self.meaning, labels=self.labels)

    def counters(self) -> CounterMetricFamily:
        """As `gauges`, for a count that is kept elsewhere."""
        return CounterMetricFamily(self.name, self.meaning, labels=self.labels)


def counter(name: str, meaning: str, *labels: str) -> Definition:
    """Defines what only rises; the name ends in `_total`."""
    return Definition(name=PREFIX + name, kind=Kind.COUNTER, meaning=meaning, labels=labels)


def gauge(name: str, meaning: str, *labels: str) -> Definition:
    """Defines what rises and falls."""
    return Definition(name=PREFIX + name, kind=Kind.GAUGE, meaning=meaning, labels=labels)


def histogram(name: str, meaning: str, *labels: str, buckets: tuple[float, ...]) -> Definition:
    """Defines how values are spread."""
    return Definition(name=PREFIX + name, kind=Kind.HISTOGRAM, meaning=meaning, labels=labels, buckets=buckets)
