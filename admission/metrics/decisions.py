"""Counts what admission decides and writes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, assert_never

from admission.core.commands import OverloadCause, RefusalCode, ReplyOverloaded, ReplyRefused
from admission.core.tasks import FailureCode, FallbackReason, LaneMode, TaskState
from admission.metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from prometheus_client import CollectorRegistry, Counter, Histogram

    from admission.core.tasks import Event, Task

_OF_A_LANE = (catalogue.LEASES, catalogue.LOST_LANES, catalogue.RETURNED_LEASES, catalogue.MEMORY_RECORDS)


class DecisionMetrics:
    """Implements `admission.observer.Observer`.

    Series whose labels are known from the start begin with 0, so that the first of something shows as a rise; those of lanes come with the
    lane's first event, and go when the lane is forgotten.
    """

    def __init__(self, registry: CollectorRegistry, models: Iterable[str]) -> None:
        """In this registry; `models`: that can be asked for."""
        self._counters = {one.name: one.counter(registry) for one in catalogue.COUNTED if not one.buckets}
        self._histograms = {one.name: one.histogram(registry) for one in catalogue.COUNTED if one.buckets}
        # To look a series up costs more than to count, and this is done in the middle of every decision.
        self._inc = cache(lambda name, *labels: self._counters[name].labels(*labels).inc)
        self._observe = cache(lambda name, *labels: self._histograms[name].labels(*labels).observe)
        self._commit: Histogram = self._histograms[catalogue.COMMIT.name]
        self._batch: Histogram = self._histograms[catalogue.BATCH.name]
        self._failures: Counter = self._counters[catalogue.STORE_FAILURES.name]
        for model in models:
            self._begin(model)

    def recorded(self, event: Event, task: Task | None) -> None:
        """See `Observer`."""
        self._inc(catalogue.EVENTS.name, event.event_type)()
        model, lane = event.model or "", event.lane_id or ""
        match event.event_type:
            case "accepted":
                self._inc(catalogue.ACCEPTANCES.name, model, event.value)()
                if task is not None:
                    self._observe(catalogue.ACCEPTANCE_WAIT.name, model, event.value)(_between(task.created_at, task.queued_at))
            case "attempt_started":
                self._started(event, task)
            case "fallback_activated":
                self._inc(catalogue.FALLBACKS.name, model, event.reason)()
            case "lane_lost":
                self._inc(catalogue.LOST_LANES.name, lane, model)()
            case "lease_returned":
                self._inc(catalogue.RETURNED_LEASES.name, lane, model)()
            case "memory_record":
                self._inc(catalogue.MEMORY_RECORDS.name, lane, event.value)()
            case "ended":
                self._inc(catalogue.ENDS.name, model, event.reason or event.value)()
            case "model_fallback_ended":
                self._observe(catalogue.FALLBACK_PERIOD.name, model, event.reason)(float(event.value))
            case "lane_forgotten":
                self._forget(lane)
            case _:
                pass

    def refused(self, reply: ReplyOverloaded | ReplyRefused) -> None:
        """See `Observer`."""
        match reply:
            case ReplyOverloaded(model=model, cause=cause):
                self._inc(catalogue.REJECTIONS.name, model, cause)()
            case ReplyRefused(model=model, refusal=refusal):
                self._inc(catalogue.REJECTIONS.name, model, refusal.code)()
            case _:
                assert_never(reply)

    def committed(self, *, decisions: int, seconds: float) -> None:
        """See `Observer`."""
        self._commit.observe(seconds)
        self._batch.observe(decisions)

    def not_committed(self) -> None:
        """See `Observer`."""
        self._failures.inc()

    def _started(self, event: Event, task: Task | None) -> None:
        model, lane = event.model or "", event.lane_id or ""
        mode = "" if task is None else task.lane_mode or ""
        self._inc(catalogue.LEASES.name, lane, mode, model)()
        if event.attempt > 1:
            self._inc(catalogue.RETRIES.name, model)()
        if task is not None:
            self._observe(catalogue.LEASE_WAIT.name, model, mode)(_between(task.queued_at, task.leased_at))

    def _begin(self, model: str) -> None:
        self._inc(catalogue.RETRIES.name, model)
        for mode in LaneMode:
            self._inc(catalogue.ACCEPTANCES.name, model, mode)
            self._observe(catalogue.ACCEPTANCE_WAIT.name, model, mode)
            self._observe(catalogue.LEASE_WAIT.name, model, mode)
        for reason in FallbackReason:
            self._inc(catalogue.FALLBACKS.name, model, reason)
            self._observe(catalogue.FALLBACK_PERIOD.name, model, reason)
        for cause in (*OverloadCause, *RefusalCode):
            self._inc(catalogue.REJECTIONS.name, model, cause)
        for code in (TaskState.DONE, *FailureCode):
            self._inc(catalogue.ENDS.name, model, code)

    def _forget(self, lane: str) -> None:
        for one in _OF_A_LANE:
            self._counters[one.name].remove_by_labels({"lane": lane})
        # It may come back: its series must then be made anew.
        self._inc.cache_clear()


def _between(since: datetime | None, until: datetime | None) -> float:
    """Seconds; the clock for people may have been set back between the two."""
    return max(0.0, (until - since).total_seconds()) if since is not None and until is not None else 0.0
