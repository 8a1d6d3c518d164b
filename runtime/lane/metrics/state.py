"""Reads a lane's state when somebody asks for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from runtime.lane.metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    from runtime.lane.metrics.catalogue import LaneLabels
    from runtime.lane.work import WorkerStatus
    from runtime.metrics.definition import Definition


class Lane(Protocol):
    """The part of an agent that is read."""

    @property
    def status(self) -> WorkerStatus:
        """Of the pipeline's process."""
        ...

    @property
    def is_attached(self) -> bool:
        """A stream to admission is open and answered."""
        ...

    @property
    def is_drained(self) -> bool:
        """An operator drains the lane."""
        ...


class LaneCollector:
    """The lane as it is now. To be asked on the agent's event loop."""

    def __init__(self, agent: Lane, labels: LaneLabels) -> None:
        """Reads this agent."""
        self._agent = agent
        self._labels = labels

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Every metric of the state as it is now."""
        families = _families()
        for definition, value, *labels in self._figures():
            families[definition.name].add_metric((*self._labels, *labels), value)
        return families.values()

    def describe(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """The metrics without values; asked for when the collector is registered."""
        return _families().values()

    def _figures(self) -> Iterator[tuple[Definition, float, *tuple[str, ...]]]:
        status = self._agent.status
        yield catalogue.WARM, status.warm
        yield catalogue.HEALTHY, status.healthy
        yield catalogue.ATTACHED, self._agent.is_attached
        yield catalogue.DRAINED, self._agent.is_drained
        yield catalogue.COLD_STARTS, status.cold_starts
        yield catalogue.OBJECT_STORE_AWAY, bool(status.object_store_failure)
        if status.resident_model:
            yield catalogue.RESIDENT, 1, status.resident_model
        if status.memory is not None:
            limits = status.memory.limits
            yield catalogue.BUDGET, limits.total_bytes, "total"
            yield catalogue.BUDGET, limits.other_bytes, "other"
            yield catalogue.BUDGET, limits.margin_bytes, "margin"
            yield catalogue.PINNED_LIMIT, limits.pinned_limit_bytes


def _families() -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
    return {one.name: one.counters() if one is catalogue.COLD_STARTS else one.gauges() for one in catalogue.OF_THE_STATE}
