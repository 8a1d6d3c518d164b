"""The row of GET /events: every change of a task as server-sent events, to its terminal state, and again from where a client was."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.contract_http.doors import Door, assert_envelope, wrong_fields

_STATUS_ORDER = ("pending", "processing", "done")


@dataclass(frozen=True, slots=True)
class _Event:
    """A state of the task; the event after the last one says only that the stream has ended."""

    id: str
    data: dict[str, Any]


def _events(door: Door, task_id: str, headers: dict[str, str] | None = None) -> list[_Event]:
    """Every state that the stream tells, to its end."""
    events: list[_Event] = []
    with door.http.stream("GET", f"/events/{task_id}", headers={"Accept": "text/event-stream", **(headers or {})}) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].partition(";")[0] == "text/event-stream"
        fields: dict[str, list[str]] = {}
        for line in reply.iter_lines():
            name, _, value = line.partition(":")
            if line and name:
                fields.setdefault(name, []).append(value.removeprefix(" "))
            elif not line:
                if "data" in fields and fields.get("event", ["status"]) == ["status"]:
                    events.append(_Event(fields["id"][-1], json.loads("\n".join(fields["data"]))))
                fields = {}
    return events


def test_stream_ends_with_the_terminal_state(door: Door) -> None:
    task_id = door.accepted()
    events = _events(door, task_id)
    assert (events[-1].data["status"], events[-1].data["progress"], events[-1].data["stage"]) == ("done", 100, "completed")
    for event in events:
        assert {"status", "progress", "stage", "queue_position"} <= set(event.data)
    progress = [event.data["progress"] for event in events]
    assert progress == sorted(progress)
    order = [_STATUS_ORDER.index(event.data["status"]) for event in events]
    assert order == sorted(order)
    assert len({event.id for event in events}) == len(events)


def test_stream_of_an_ended_task_says_so_at_once(door: Door) -> None:
    task_id = door.done()
    assert _events(door, task_id)[-1].data["status"] == "done"


def test_stream_tells_a_cancel(door: Door) -> None:
    task_id = door.accepted(prompt="waits")
    door.ended(task_id, until=("processing",))
    canceller = threading.Timer(0.1, lambda: door.http.post(f"/cancel/{task_id}"))
    canceller.start()
    try:
        last = _events(door, task_id)[-1].data
    finally:
        canceller.join()
    assert (last["status"], last["error_code"]) == ("failed", "cancelled")


def test_stream_goes_on_after_the_last_event_that_was_seen(door: Door) -> None:
    task_id = door.accepted(prompt="waits")
    door.ended(task_id, until=("processing",))
    with door.http.stream("GET", f"/events/{task_id}") as reply:
        first = next(line.removeprefix("id:").strip() for line in reply.iter_lines() if line.startswith("id:"))
    door.http.post(f"/cancel/{task_id}")
    again = _events(door, task_id, {"Last-Event-ID": first})
    assert first not in {event.id for event in again}
    assert again[-1].data["status"] == "failed"


@pytest.mark.parametrize("last", ["x", "-1", "9" * 40, "a b", "1.5"])
def test_last_event_that_is_none_of_the_stream_is_refused_by_its_name(door: Door, last: str) -> None:
    task_id = door.done()
    assert wrong_fields(door.http.get(f"/events/{task_id}", headers={"Last-Event-ID": last})) == {"Last-Event-ID"}


def test_stream_of_a_task_that_is_not_there_is_404(door: Door) -> None:
    assert_envelope(door.http.get(f"/events/{'0' * 32}"), 404, "task_not_found")


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_nobody_may_follow(anonymous: httpx.Client, prefix: str) -> None:
    assert_envelope(anonymous.get(f"{prefix}/events/x"), 401, "unauthenticated")
    assert_envelope(anonymous.get(f"{prefix}/events/x", headers={"X-API-Key": "wrong"}), 403, "forbidden")
