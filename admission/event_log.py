"""What admission's log says of what is recorded: events of lanes, models and admission itself, and lanes that are lost under a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from admission.core.tasks import Event

_log = structlog.get_logger()

# Somebody may have to do something.
_WARNINGS = frozenset(
    {
        "cold_start_failed",
        "lane_lost",
        "lane_not_ready",
        "memory_drift",
        "object_store_away",
        "placement_retired",
        "queue_overloaded",
        "queue_timeout",
        "quota_denied",
        "store_slow",
    }
)


def log_event(event: Event) -> None:
    """One line under the event's own name, once it is on disk. The rest of what happens to tasks is many times as much, and no news."""
    if event.task_id is not None and event.event_type != "lane_lost":
        return
    facts = {
        "task": event.task_id,
        "attempt": event.attempt or None,
        "lane": event.lane_id,
        "model": event.model,
        "value": event.value,
        "reason": event.reason,
    }
    tell = _log.warning if event.event_type in _WARNINGS else _log.info
    tell(event.event_type, **{name: fact for name, fact in facts.items() if fact})
