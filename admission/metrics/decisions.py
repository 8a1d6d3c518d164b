"""Counts what admission decides and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from admission.core.commands import OverloadCause, RefusalCode, ReplyOverloaded, ReplyRefused
from admission.core.tasks import FailureCode, FallbackReason, LaneMode, TaskState
from admission.metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from prometheus_client import CollectorRegistry

    from admission.core.tasks import Event, Task


# Alerts are made of these, so that their first must show as a rise too.
_ALARMING = ("cold_start_failed", "memory_drift", "placement_retired")


class DecisionMetrics:
    """Implements `admission.observer.Observer`.

    Series whose labels are known from the start begin with 0, so that the first of something shows as a rise; those of lanes come with the
    lane's first event or lease, and go when the lane is forgotten.
    """

    def __init__(self, registry: CollectorRegistry, models: Iterable[str]) -> None:
        """In this registry; `models`: that can be asked for."""
        self._acceptances = catalogue.ACCEPTANCES.counter(registry)
        self._acceptance_wait = catalogue.ACCEPTANCE_WAIT.histogram(registry)
        self._rejections = catalogue.REJECTIONS.counter(registry)
        self._leases = catalogue.LEASES.counter(registry)
        self._lease_wait = catalogue.LEASE_WAIT.histogram(registry)
        self._retries = catalogue.RETRIES.counter(registry)
        self._lost_lanes = catalogue.LOST_LANES.counter(registry)
        self._returned_leases = catalogue.RETURNED_LEASES.counter(registry)
        self._fallbacks = catalogue.FALLBACKS.counter(registry)
        self._fallback_period = catalogue.FALLBACK_PERIOD.histogram(registry)
        self._ends = catalogue.ENDS.counter(registry)
        self._memory_records = catalogue.MEMORY_RECORDS.counter(registry)
        self._events = catalogue.EVENTS.counter(registry)
        self._commit = catalogue.COMMIT.histogram(registry)
        self._batch = catalogue.BATCH.histogram(registry)
        self._store_failures = catalogue.STORE_FAILURES.counter(registry)
        for event_type in _ALARMING:
            self._events.add((event_type,), 0)
        for model in models:
            self._begin(model)

    def recorded(self, event: Event, task: Task | None) -> None:
        """See `Observer`."""
        self._events.add((event.event_type,))
        model, lane = event.model or "", event.lane_id or ""
        match event.event_type:
            case "accepted":
                self._acceptances.add((model, event.value))
                if task is not None:
                    self._acceptance_wait.observe(_between(task.created_at, task.queued_at), (model, event.value))
            case "attempt_started":
                self._started(event, task)
            case "fallback_activated":
                self._fallbacks.add((model, event.reason))
            case "lane_lost":
                self._lost_lanes.add((lane, model))
            case "lease_returned":
                self._returned_leases.add((lane, model))
            case "memory_record":
                self._memory_records.add((lane, event.value))
            case "ended":
                self._ends.add((model, event.reason or event.value))
            case "model_fallback_ended":
                self._fallback_period.observe(float(event.value), (model, event.reason))
            case "lane_forgotten":
                self._forget(lane)
            case _:
                pass

    def shown(self, task: Task) -> None:
        """See `Observer`. How tasks stand is counted when somebody asks."""

    def refused(self, reply: ReplyOverloaded | ReplyRefused) -> None:
        """See `Observer`."""
        match reply:
            case ReplyOverloaded(model=model, cause=cause):
                self._rejections.add((model, cause))
            case ReplyRefused(model=model, refusal=refusal):
                self._rejections.add((model, refusal.code))
            case _:
                assert_never(reply)

    def committed(self, *, decisions: int, seconds: float) -> None:
        """See `Observer`."""
        self._commit.observe(seconds)
        self._batch.observe(decisions)

    def not_committed(self) -> None:
        """See `Observer`."""
        self._store_failures.add()

    def _started(self, event: Event, task: Task | None) -> None:
        model, lane = event.model or "", event.lane_id or ""
        # A store that was away may have merged this with other decisions: then the task may stand where it was before, or later.
        task = task if task is not None and task.attempt == event.attempt else None
        mode = "" if task is None else task.lane_mode or ""
        self._leases.add((lane, mode, model))
        self._lost_lanes.add((lane, model), 0)
        if event.attempt > 1:
            self._retries.add((model,))
        if task is not None:
            self._lease_wait.observe(_between(task.queued_at, task.leased_at), (model, mode))

    def _begin(self, model: str) -> None:
        self._retries.add((model,), 0)
        for mode in LaneMode:
            self._acceptances.add((model, mode), 0)
            self._acceptance_wait.begin((model, mode))
            self._lease_wait.begin((model, mode))
        for reason in FallbackReason:
            self._fallbacks.add((model, reason), 0)
            self._fallback_period.begin((model, reason))
        for cause in (*OverloadCause, *RefusalCode):
            self._rejections.add((model, cause), 0)
        for code in (TaskState.DONE, *FailureCode):
            self._ends.add((model, code), 0)

    def _forget(self, lane: str) -> None:
        """Of the counters by lane; the lane is their first label."""
        for counts in (self._leases, self._lost_lanes, self._returned_leases, self._memory_records):
            counts.forget(lambda labels: labels[0] == lane)


def _between(since: datetime | None, until: datetime | None) -> float:
    """Seconds; the clock for people may have been set back between the two."""
    return max(0.0, (until - since).total_seconds()) if since is not None and until is not None else 0.0
