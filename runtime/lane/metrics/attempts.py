"""Counts a lane's attempts and the starts of its pipeline process, and keeps what the last attempt left in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from runtime.fit.cost import Shape
from runtime.fit.placement import MemoryPhase
from runtime.lane.metrics import catalogue
from runtime.lane.outcome import FailureCode

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

    from runtime.lane.child_protocol import PartEnded
    from runtime.lane.metrics.catalogue import LaneLabels
    from runtime.lane.outcome import MemoryRecord, Outcome, ResidencyChange
    from runtime.lane.state import Attempt
    from runtime.lane.work import WorkerStatus
    from runtime.metrics.definition import Definition
    from runtime.traces.context import TraceContext

DONE = "done"
_UNKNOWN = "unknown"
"""Instead of a model that this lane does not have, so that no message can make series."""

_REASONS = ("nothing_resident", "other_resident", "process_replaced")


class AttemptMetrics:
    """Implements `runtime.lane.observer.LaneObserver`. Series of the lane's models begin with 0."""

    def __init__(
        self, registry: CollectorRegistry, labels: LaneLabels, models: Iterable[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """In this registry; `models` that the lane serves."""
        self._labels = labels
        self._models = frozenset(models)
        self._clock = clock
        self._counters = {one.name: one.counter(registry) for one in catalogue.COUNTED if not one.buckets}
        self._histograms = {one.name: one.histogram(registry) for one in catalogue.COUNTED if one.buckets}
        self._starts = 0
        self._started_s: float | None = None
        for model in sorted(self._models):
            self._begin(model)
        self._last = LastRecord(self._labels)
        registry.register(self._last)

    def status_changed(self, status: WorkerStatus) -> None:
        """See `LaneObserver`."""
        if status.cold_starts > self._starts:
            self._starts, self._started_s = status.cold_starts, self._clock()
        if status.warm and self._started_s is not None:
            self._observe(catalogue.COLD_START, self._clock() - self._started_s)
            self._started_s = None

    @property
    def wants_parts(self) -> bool:
        """See `LaneObserver`. The times of an attempt stand in its outcome."""
        return False

    def attempt_started(self, attempt: Attempt, model: str, context: TraceContext | None) -> None:
        """See `LaneObserver`. Attempts are counted when they end."""

    def part_ended(self, event: PartEnded) -> None:
        """See `LaneObserver`."""

    def attempt_ended(self, attempt: Attempt, model: str, steps: int, outcome: Outcome) -> None:
        """See `LaneObserver`."""
        model = model if model in self._models else _UNKNOWN
        self._count(catalogue.ATTEMPTS, model, DONE if outcome.failure is None else outcome.failure.code)
        if outcome.render_s is not None:
            self._observe(catalogue.RENDER, outcome.render_s, model)
        if (result := outcome.result) is not None:
            self._count(catalogue.FRAMES, model, by=result.num_frames)
            shape = Shape(width=result.width, height=result.height, num_frames=result.num_frames)
            self._count(catalogue.TOKENS, model, by=shape.tokens)
            if outcome.denoise_s is not None and steps > 0:
                self._observe(catalogue.STEP, outcome.denoise_s / steps, model)
        self._remember(model, outcome.memory)

    def _remember(self, model: str, record: MemoryRecord) -> None:
        for one in record.out_of_memory:
            self._count(catalogue.OUT_OF_MEMORY, model, one.phase)
        if record.placement:
            self._count(catalogue.PLACEMENTS, model, record.placement)
        peak_bytes = measured_peak_bytes(record)
        if record.predicted_peak_bytes > 0 and peak_bytes is not None:
            self._observe(catalogue.PEAK_RATIO, peak_bytes / record.predicted_peak_bytes, model)
        if record.cleanup_s is not None:
            self._observe(catalogue.CLEANUP, record.cleanup_s)
        if (change := record.residency_change) is not None:
            self._switched(change)
        self._last.keep(model, record)

    def _switched(self, change: ResidencyChange) -> None:
        model = change.loaded_model if change.loaded_model in self._models else _UNKNOWN
        self._count(catalogue.SWITCHES, model, _reason(change))
        self._count(catalogue.LOADED_BYTES, model, by=change.loaded_bytes)
        self._observe(catalogue.LOAD, change.load_s, model, "host" if change.from_host else "disk")
        if change.released_model:
            self._count(catalogue.RELEASED_BYTES, by=change.released_bytes)
            self._observe(catalogue.RELEASE, change.release_s)

    def _begin(self, model: str) -> None:
        for code in (DONE, *FailureCode):
            self._count(catalogue.ATTEMPTS, model, code, by=0)
        for phase in MemoryPhase:
            self._count(catalogue.OUT_OF_MEMORY, model, phase, by=0)
        for reason in _REASONS:
            self._count(catalogue.SWITCHES, model, reason, by=0)
        for one in (catalogue.FRAMES, catalogue.TOKENS):
            self._count(one, model, by=0)

    def _count(self, one: Definition, *labels: str, by: float = 1) -> None:
        self._counters[one.name].add((*self._labels, *labels), by)

    def _observe(self, one: Definition, value: float, *labels: str) -> None:
        self._histograms[one.name].observe(value, (*self._labels, *labels))


class LastRecord:
    """The figures of the last attempt that was measured: an attempt whose process died says nothing of the memory."""

    def __init__(self, labels: LaneLabels) -> None:
        """Nothing is known yet."""
        self._labels = labels
        self._model = ""
        self._record: MemoryRecord | None = None
        self._residue_bytes: int | None = None

    def keep(self, model: str, record: MemoryRecord) -> None:
        """Of an attempt for this model."""
        if record.residency_change is not None:
            self._residue_bytes = record.residency_change.residue_bytes
        if not record.unmeasured_reason:
            self._model, self._record = model, record

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """What is known; nothing for what the device could not tell."""
        families = {one.name: one.gauges() for one in catalogue.OF_THE_RECORD}
        for definition, value, *labels in self._figures():
            if value is not None:
                families[definition.name].add_metric((*self._labels, *labels), value)
        return families.values()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metrics without values; asked for when the collector is registered."""
        return [one.gauges() for one in catalogue.OF_THE_RECORD]

    def _figures(self) -> Iterator[tuple[Definition, int | None, *tuple[str, ...]]]:
        yield catalogue.RESIDUE, self._residue_bytes
        record = self._record
        if record is None:
            return
        yield catalogue.ALLOCATED, record.allocated_bytes
        yield catalogue.RESERVED, record.reserved_bytes
        yield catalogue.PEAK_ALLOCATED, record.peak_allocated_bytes
        yield catalogue.PEAK_RESERVED, record.peak_reserved_bytes
        yield catalogue.DRIVER_FREE, record.driver_free_bytes
        yield catalogue.PINNED, record.pinned_bytes
        yield catalogue.HOST_RSS, record.host_rss_after_bytes
        yield catalogue.HOST_RSS_PEAK, record.host_rss_peak_bytes
        yield catalogue.DRIFT, record.drift_bytes
        if record.placement:
            yield catalogue.PREDICTED_PEAK, record.predicted_peak_bytes or None, self._model, record.placement
            yield catalogue.MEASURED_PEAK, measured_peak_bytes(record), self._model, record.placement


def measured_peak_bytes(record: MemoryRecord) -> int | None:
    """The highest of its phases; None when none was measured."""
    return max((one.peak_bytes for one in record.phase_peaks), default=None)


def _reason(change: ResidencyChange) -> str:
    if change.process_replaced:
        return "process_replaced"
    return "other_resident" if change.released_model else "nothing_resident"
