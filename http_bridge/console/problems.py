"""What of a snapshot an operator may have to look at; pure. Each kind of problem has its runbook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from http_bridge.schemas_console import Problem, ProblemCode

if TYPE_CHECKING:
    from http_bridge.schemas_admin import LaneDiagnostics, QueueDiagnostics, SystemDiagnostics

Severity = Literal["critical", "warning", "info"]

# As the alerts have them: deploy/observability/alerts.yml.
_SLOW_COMMIT_S = 0.25
_DRIFT_BYTES = 64 * 1024**2
_NEARLY_FULL = 0.8
_NEWS = timedelta(minutes=5)


class Kind(NamedTuple):
    """How bad it is, and where it stands what to do."""

    severity: Severity
    runbook: str


KINDS: Mapping[ProblemCode, Kind] = MappingProxyType(
    {
        "store_fails": Kind("critical", "WarmlaneStoreFails"),
        "model_not_served": Kind("critical", "WarmlaneModelNotServed"),
        "overloaded": Kind("critical", "WarmlaneOverloaded"),
        "object_store_away": Kind("critical", "WarmlaneObjectStoreAway"),
        "cold_start_fails": Kind("warning", "WarmlaneColdStartFails"),
        "lane_not_ready": Kind("warning", "WarmlaneLaneNotWarm"),
        "out_of_memory": Kind("warning", "WarmlaneOutOfMemory"),
        "memory_drifts": Kind("warning", "WarmlaneMemoryDrifts"),
        "placement_retired": Kind("warning", "WarmlanePlacementRetired"),
        "quota_denied": Kind("warning", "WarmlaneQuotaDenied"),
        "fallback": Kind("warning", "WarmlaneFallback"),
        "queue_nearly_full": Kind("warning", "WarmlaneQueueNearlyFull"),
        "store_slow": Kind("warning", "WarmlaneStoreSlow"),
        "manual_fallback": Kind("info", "WarmlaneManualFallbackForgotten"),
        "lane_drained": Kind("info", "WarmlaneLaneNotWarm"),
        "admission_restarted": Kind("info", "WarmlaneAdmissionRestarts"),
    }
)
"""The worst first."""

_RANKS = {code: rank for rank, code in enumerate(KINDS)}


def problems(found: SystemDiagnostics) -> list[Problem]:
    """All of them, the worst first."""
    made = [*_of_admission(found)]
    for queue in found.queues:
        made += _of_queue(queue)
    for lane in found.lanes:
        made += _of_lane(lane)
    return sorted(made, key=lambda one: (_RANKS[one.code], one.model or "", one.lane or ""))


def _problem(code: ProblemCode, text: str, *, lane: str | None = None, model: str | None = None) -> Problem:
    kind = KINDS[code]
    return Problem(code=code, severity=kind.severity, lane=lane, model=model, text=text, runbook=kind.runbook)


def _of_admission(found: SystemDiagnostics) -> Iterator[Problem]:
    store, room = found.store, found.degraded
    if store.is_failing:
        yield _problem("store_fails", f"The store takes no write: nothing is accepted. {store.failures} transactions failed.")
    slowest_s = store.slowest_commit_seconds
    if slowest_s is not None and slowest_s > _SLOW_COMMIT_S:
        yield _problem("store_slow", f"A commit of the store took {slowest_s:.2f} s within the last minute.")
    if room.max_depth and room.depth >= room.max_depth:
        yield _problem("overloaded", f"All {room.max_depth} places of the degraded queue are taken: more is refused.")
    if found.started_at is not None and found.taken_at - found.started_at < _NEWS:
        text = f"Admission was started at {found.started_at:%H:%M:%S} UTC (epoch {found.controller_epoch})."
        yield _problem("admission_restarted", text)


def _of_queue(queue: QueueDiagnostics) -> Iterator[Problem]:
    model = queue.model
    if not queue.is_served:
        yield _problem("model_not_served", f"No ready lane can serve {model}: its requests are held, then refused.", model=model)
    if queue.quota_denied_until is not None:
        until = f"{queue.quota_denied_until:%H:%M:%S} UTC"
        yield _problem("quota_denied", f"The GPU quota for lanes of {model} is denied until {until}.", model=model)
    if queue.is_manual_fallback:
        yield _problem("manual_fallback", f"An operator sent {model} to the degraded pool.", model=model)
    elif queue.fallback_reason is not None:
        yield _problem("fallback", f"Requests of {model} go to the degraded pool ({queue.fallback_reason}).", model=model)
    if queue.max_depth and queue.depth > _NEARLY_FULL * queue.max_depth:
        yield _problem("queue_nearly_full", f"{queue.depth} of {queue.max_depth} places in the queue of {model} are taken.", model=model)


def _of_lane(lane: LaneDiagnostics) -> Iterator[Problem]:
    name = lane.lane
    if lane.object_store_failure is not None:
        yield _problem("object_store_away", f"{name} waits for the object store: {lane.object_store_failure}.", lane=name)
    if lane.start_failure is not None:
        failure = lane.start_failure
        text = f"{name} cannot become warm ({failure.cause}, {failure.attempts} tries): {failure.reason}"
        yield _problem("cold_start_fails", text, lane=name)
    elif lane.is_drained:
        yield _problem("lane_drained", f"{name} is drained: it gets no more work.", lane=name)
    elif lane.availability != "ready":
        yield _problem("lane_not_ready", f"{name} is not ready: {lane.reason or 'it does not say why'}", lane=name)
    if lane.retired_placements:
        placements = ", ".join(lane.retired_placements)
        yield _problem("placement_retired", f"{name} goes without {placements} until it is restarted.", lane=name)
    yield from _of_memory(lane)


def _of_memory(lane: LaneDiagnostics) -> Iterator[Problem]:
    """Of the lane's last attempt."""
    if lane.memory is None:
        return
    if lane.memory.out_of_memory:
        tries = ", ".join(f"{one.phase} with {one.placement}" for one in lane.memory.out_of_memory)
        yield _problem("out_of_memory", f"{lane.lane} ran out of memory in its last attempt: {tries}.", lane=lane.lane)
    drift_bytes = lane.memory.drift_bytes
    if drift_bytes is not None and drift_bytes > _DRIFT_BYTES:
        text = f"{drift_bytes / 1024**2:.0f} MiB more than after earlier attempts stayed on the device of {lane.lane}."
        yield _problem("memory_drifts", text, lane=lane.lane)
