"""Faults of idempotency, of watching and of repeatability. Each is a mutation of the real code, undone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from random import SystemRandom
from typing import Any
from unittest.mock import patch

from admission import submissions, watching
from admission.core.fair_queue import FairQueue
from admission.core.tasks import Event, TaskId
from admission.store.port import EventQuery
from tests.simulation.disk import ModelStore


def duplicate_not_joined() -> AbstractContextManager[object]:
    """A repetition of a request that is held begins anew."""
    submit = submissions.Submissions._submit_keyed

    async def alone(self: submissions.Submissions, submission: Any) -> Any:
        self._keyed.pop((submission.owner, submission.request_id), None)
        return await submit(self, submission)

    return patch.object(submissions.Submissions, "_submit_keyed", alone)


def duplicate_not_looked_up() -> AbstractContextManager[object]:
    """A repetition of a request that was accepted begins anew."""

    async def nothing(self: ModelStore, owner: str, request_id: str) -> None:
        return None

    return patch.object(ModelStore, "task_of_request", nothing)


def other_body_accepted() -> AbstractContextManager[object]:
    """The same key with another body gets the first one's task."""
    return patch.object(submissions, "fingerprint", lambda request: "same")


def _shifted_watch(by: int) -> AbstractContextManager[object]:
    def shifted(**fields: Any) -> EventQuery:
        after = fields.pop("after")
        return EventQuery(after=after + by if after else 0, **fields)

    return patch.object(watching, "EventQuery", shifted)


def event_skipped() -> AbstractContextManager[object]:
    """A watcher that comes back misses an event."""
    return _shifted_watch(1)


def event_repeated() -> AbstractContextManager[object]:
    """A watcher that comes back is told an event again."""
    return _shifted_watch(-1)


def reader_misses_bell() -> AbstractContextManager[object]:
    """Who follows all events is not woken."""
    recorded = watching.Watching.recorded

    def deaf(self: watching.Watching, event: Event, sequence: int) -> None:
        followers, self._followers = self._followers, 0
        recorded(self, event, sequence)
        self._followers = followers

    return patch.object(watching.Watching, "recorded", deaf)


@contextmanager
def not_repeatable() -> Iterator[None]:
    """The core decides by chance."""
    random = SystemRandom()

    def any_of(self: FairQueue) -> TaskId | None:
        waiting = list(self._head) or [task_ids[0] for task_ids in self._by_owner.values()]
        return random.choice(waiting) if waiting else None

    with patch.object(FairQueue, "peek", any_of), patch("tests.simulation.invariants.MAX_TURNS", 10**6):
        yield
