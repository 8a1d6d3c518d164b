"""Reads the core's state when somebody asks for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from admission.core.lanes import Availability
from admission.core.tasks import FallbackReason, LaneMode
from admission.metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import GaugeMetricFamily

    from admission.engine_types import LaneView, QueueView, Snapshot
    from runtime.metrics.definition import Definition


class StateCollector:
    """One snapshot for all metrics of one answer. To be asked on the engine's event loop."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        """`snapshot` is the engine's."""
        self._snapshot = snapshot

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Every metric of the state as it is now."""
        snapshot = self._snapshot()
        families = {one.name: one.gauges() for one in catalogue.READ}
        for definition, labels, value in _samples(snapshot):
            families[definition.name].add_metric(labels, value)
        return families.values()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metrics without values; asked for when the collector is registered."""
        return [one.gauges() for one in catalogue.READ]


_Sample = tuple["Definition", tuple[str, ...], float]


def _samples(snapshot: Snapshot) -> Iterator[_Sample]:
    degraded = snapshot.degraded
    yield catalogue.EPOCH, (), snapshot.controller_epoch
    yield catalogue.DEGRADED, ("held",), degraded.held
    yield catalogue.DEGRADED, ("rescued",), degraded.rescued
    yield catalogue.DEGRADED_LIMIT, (), degraded.max_depth
    yield catalogue.OLDEST_WAIT, (), degraded.oldest_wait_s
    yield catalogue.WAIT_LIMIT, (), degraded.max_wait_s
    for queue in snapshot.queues:
        yield from _of_queue(queue)
        for mode in LaneMode:
            yield catalogue.READY_LANES, (queue.model, mode), sum(_serves(lane, mode, queue.model) for lane in snapshot.lanes)
    for lane in snapshot.lanes:
        yield from _of_lane(lane)


def _of_queue(queue: QueueView) -> Iterator[_Sample]:
    model = (queue.model,)
    yield catalogue.QUEUE, model, queue.depth
    yield catalogue.QUEUE_LIMIT, model, queue.max_depth
    yield catalogue.RUNNING, model, queue.running
    if queue.predicted_wait_s is not None:
        yield catalogue.PREDICTED_WAIT, model, queue.predicted_wait_s
    for reason in FallbackReason:
        yield catalogue.FALLBACK, (queue.model, reason), queue.fallback_reason is reason
    yield catalogue.QUOTA_DENIED, model, queue.quota_denied_until is not None


def _of_lane(lane: LaneView) -> Iterator[_Sample]:
    labels = (lane.spec.lane_id, lane.spec.mode)
    for availability in Availability:
        yield catalogue.AVAILABILITY, (*labels, availability), lane.availability is availability
    yield catalogue.LANE_WARM, labels, lane.warm
    yield catalogue.LANE_LEASED, labels, lane.work is not None or lane.finishing is not None
    yield catalogue.LANE_DRAINED, labels, lane.is_drained
    if lane.last_report_age_s is not None:
        yield catalogue.REPORT_AGE, labels, lane.last_report_age_s
    if lane.resident_model is not None:
        yield catalogue.RESIDENT, (*labels, lane.resident_model), 1
    for model, placement in lane.retired:
        yield catalogue.RETIRED, (*labels, model, placement), 1


def _serves(lane: LaneView, mode: LaneMode, model: str) -> bool:
    return lane.availability is Availability.READY and lane.spec.mode is mode and model in lane.spec.models
