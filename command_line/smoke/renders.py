"""Checks of rendering: each model in turn, with progress that never falls, and the events of a task."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from command_line.smoke.outcome import CheckFailedError, CheckSkippedError
from command_line.smoke.visit import Clip, Visit, small_clip

_STATUSES = ("pending", "processing", "done", "failed")
_STAGES = ("queued", "dispatch", "loading_pipeline", "inference", "encoding", "completed", "failed")
_MEMBERS = (
    "task_id",
    "status",
    "progress",
    "stage",
    "stage_detail",
    "lane_mode",
    "fallback_reason",
    "diagnostics",
    "result_url",
    "preview_url",
    "error",
    "error_msg",
    "created_at",
    "updated_at",
)
_VERSION = "Compare the bridge's version with the contract; look whether a proxy caches or changes replies."
# After the terminal state the stream ends at once; this is for what a proxy keeps back.
_EVENTS_GRACE_S = 30.0


class Course:
    """The course of one task: each state that is told must follow from those before."""

    def __init__(self, task_id: str) -> None:
        """Nothing was told yet."""
        self._task_id = task_id
        self._attempt: object = None
        self._progress = 0

    def add(self, status: Mapping[str, Any], source: str) -> None:
        """The next state. Raises CheckFailedError when it cannot be."""
        missing = [name for name in _MEMBERS if name not in status]
        if missing:
            raise CheckFailedError(f"{source} lacks {', '.join(missing)}", _VERSION)
        if status["task_id"] != self._task_id or status["status"] not in _STATUSES or status["stage"] not in _STAGES:
            told = f"{status['task_id']!a}, {status['status']!a}, {status['stage']!a}"
            raise CheckFailedError(f"{source} tells what no status is: {told}", _VERSION)
        progress, attempt = status["progress"], status.get("attempt")
        if isinstance(progress, bool) or not isinstance(progress, int) or not 0 <= progress <= 100:
            raise CheckFailedError(f"{source} tells a progress that is none: {progress!a}", _VERSION)
        if attempt == self._attempt and progress < self._progress:
            raise CheckFailedError(f"{source}: progress fell from {self._progress} to {progress} within one attempt", _VERSION)
        self._attempt, self._progress = attempt, progress


async def render(visit: Visit, model: str, number: int) -> str:
    """One clip, from its acceptance to done."""
    started_s = time.monotonic()
    task_id = await visit.accepted(small_clip(model, seed=number))
    early = await visit.call("GET", f"/results/{task_id}")
    if early.status != 200:
        early.refusal(425, "task_not_done", _VERSION)
    follower = asyncio.create_task(_follow(visit, task_id), name="follow-events") if visit.followed is None else None
    try:
        status = await _until_done(visit, task_id, model, started_s)
        if follower is not None:
            visit.followed = await _end_of(follower)
    finally:
        if follower is not None:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
    if status["progress"] != 100 or status["stage"] != "completed":
        raise CheckFailedError(f"a done task tells {status['progress']} % and the stage {status['stage']}", _VERSION)
    for name, path in (("result_url", "results"), ("preview_url", "preview")):
        if not str(status[name]).endswith(f"/{path}/{task_id}"):
            raise CheckFailedError(f"{name} of a done task is {status[name]!a}", "Look at WARMLANE_PUBLIC_BASE_URL.")
    visit.clips.append(Clip(task_id=task_id, model=model, status=status))
    return f"{model} done in {time.monotonic() - started_s:.1f} s ({status['lane_mode']})"


async def _end_of(follower: asyncio.Task[CheckFailedError | str]) -> CheckFailedError | str:
    try:
        async with asyncio.timeout(_EVENTS_GRACE_S):
            return await follower
    except TimeoutError:
        problem = f"GET /events did not end within {_EVENTS_GRACE_S:g} s after the task was done"
        return CheckFailedError(problem, "Let the proxy pass events on at once, unbuffered.")


async def _until_done(visit: Visit, task_id: str, model: str, started_s: float) -> dict[str, Any]:
    course = Course(task_id)
    while True:
        status = (await visit.call("GET", f"/status/{task_id}")).expect(200)
        course.add(status, "GET /status")
        visit.tell(f"{model}: {status['status']}, {status['progress']} %")
        if status["status"] == "done":
            return status
        if status["status"] == "failed":
            problem = f"{model} failed with {status.get('error_code')}: {status['error']}"
            raise CheckFailedError(problem, "Look at the lane's log; `warmlane lanes` shows what is wrong with it.")
        if time.monotonic() - started_s > visit.render_timeout_s:
            problem = (
                f"{model} was not done within {visit.render_timeout_s:g} s: {status['status']}, {status['progress']} %, {status['stage']}"
            )
            raise CheckFailedError(problem, "Look at `warmlane lanes` and `warmlane queue`, or give more time with --timeout.")
        await asyncio.sleep(visit.poll_s)


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    id: str
    data: Mapping[str, Any]


async def _follow(visit: Visit, task_id: str) -> CheckFailedError | str:
    """What the events of a task tell to its end; a failure is kept for the check of events, which is another one."""
    try:
        events = await _events(visit, task_id)
        if not events:
            return CheckFailedError("GET /events ended without one event", _VERSION)
        again = await _events(visit, task_id, last_id=events[0].id)
    except CheckFailedError as error:
        return error
    # From where the client was; the state as it stands is told again where nothing changed since.
    if len(again) > len(events) or any(event.data["status"] != "done" for event in again[-1:]):
        return CheckFailedError("GET /events with Last-Event-ID begins anew, or ends without the end", _VERSION)
    return f"{len(events)} changes were told, the last one the end; resumed with Last-Event-ID"


async def _events(visit: Visit, task_id: str, *, last_id: str | None = None) -> list[_Event]:
    """Every state that the stream tells. Raises CheckFailedError unless it ends with a terminal one."""
    headers = {**visit.credential(), "Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id is not None else {})}
    timeout_s = visit.render_timeout_s + _EVENTS_GRACE_S
    course, events = Course(task_id), list[_Event]()
    async with visit.deployment.lines(f"/events/{task_id}", headers=headers, timeout_s=timeout_s) as (head, lines):
        if head.status == 204 and last_id is not None:
            return events
        head.expect_status(200)
        if head.headers.get("content-type", "").partition(";")[0] != "text/event-stream":
            raise CheckFailedError("GET /events is not a text/event-stream", "Look whether a proxy changes it.")
        async for event in _parsed(lines):
            if event.name == "status":
                course.add(event.data, "GET /events")
                events.append(event)
    if events and events[-1].data["status"] not in ("done", "failed"):
        raise CheckFailedError("GET /events ended before the task did", "Let the proxy keep replies open that take long, unbuffered.")
    return events


async def _parsed(lines: AsyncIterator[str]) -> AsyncIterator[_Event]:
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(":")
        if line and name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
        elif not line and "data" in fields:
            try:
                data = json.loads(fields["data"])
            except ValueError:
                data = None
            if not isinstance(data, dict):
                raise CheckFailedError("GET /events sent data that is no JSON object", _VERSION)
            yield _Event(fields.get("event", "status"), fields.get("id", ""), data)
            fields = {}


async def events(visit: Visit) -> str:
    """The events of the first clip, that were read while it was rendered."""
    if visit.followed is None:
        msg = "no clip was rendered"
        raise CheckSkippedError(msg)
    if isinstance(visit.followed, CheckFailedError):
        raise visit.followed
    return visit.followed
