"""What the commands print for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from warmlane.admission.v1 import operator_service_pb2, task_pb2

from command_line.documents import enum_name
from command_line.progress import describe

_WIDTH_OF_FILES = 240
_GIB = 1024**3


def output_console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for whole tables where something else reads it."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_FILES)


def print_task(console: Console, task: task_pb2.Task) -> None:
    """One task, its request and what happened to it."""
    request = task.request
    facts = [
        ("task", task.task_id),
        ("state", enum_name(task_pb2.TaskState.DESCRIPTOR, task.state) or ""),
        ("progress", f"{task.progress} %, {describe(task)}"),
        ("lane", _lane(task)),
        ("request", f"{request.model} {request.mode}, {request.width}x{request.height}, {request.num_frames} frames at {request.fps}/s"),
        ("seed", str(request.seed)),
        ("created", task.created_at.ToJsonString()),
        ("failure", f"{task.failure.code}: {task.failure.message}" if task.HasField("failure") else ""),
        ("video", f"{task.result.size_bytes} bytes, {task.result.media_type}" if task.HasField("result") else ""),
    ]
    for name, value in facts:
        if value:
            _line(console, f"{name:>9}  {value}")
    for event in task.events:
        about = " ".join(part for part in (event.value, event.reason) if part)
        _line(console, f"{event.created_at.ToJsonString()}  {event.event_type}  {about}")


def event_line(event: task_pb2.TaskEvent) -> str:
    """One event: its number, when, what, and what it concerns."""
    about = [
        event.value,
        f"({event.reason})" if event.reason else "",
        f"model {event.model}" if event.model else "",
        f"lane {event.lane_id}" if event.lane_id else "",
        f"task {event.task_id}" if event.task_id else "",
        f"attempt {event.attempt}" if event.attempt else "",
    ]
    words = [str(event.sequence), event.created_at.ToJsonString(), event.event_type, *about]
    return "  ".join(word for word in words if word)


def print_lanes(console: Console, lanes: Iterable[operator_service_pb2.LaneSnapshot]) -> None:
    """Lanes, one a row."""
    table = _table("lane", "availability", "resident", "task", "last report", "gpu", "budget", "out of use", "why")
    for lane in lanes:
        availability = enum_name(operator_service_pb2.Availability.DESCRIPTOR, lane.availability) or ""
        work = f"{lane.task_id} #{lane.attempt}, {lane.progress} %" if lane.task_id else ""
        if lane.HasField("finishing"):
            earlier = f"finishing {lane.finishing.task_id} #{lane.finishing.attempt}"
            work = f"{work}; {earlier}" if work else earlier
        age = f"{_seconds(lane.last_report_age)} ago" if lane.HasField("last_report_age") else "never"
        shown = f"{availability}, drained" if lane.drained else availability
        budget = f"{lane.memory_budget_bytes / _GIB:.2f} GiB" if lane.memory_budget_bytes else ""
        retired = ", ".join(f"{one.placement} of {one.model}" for one in lane.retired_placements)
        cells = (lane.lane_id, shown, lane.resident_model, work, age, lane.gpu or lane.device, budget, retired, _why(lane))
        table.add_row(*(escape(cell) for cell in cells))
    if table.row_count:
        console.print(table)
    else:
        _line(console, "no lane was ever seen")


def print_queues(console: Console, queues: Iterable[operator_service_pb2.QueueSnapshot]) -> None:
    """Queues, one a row."""
    table = _table("queue", "waiting", "limit", "running", "predicted wait", "quota denied until", "new requests go to")
    for queue in queues:
        wait = _seconds(queue.predicted_wait) if queue.HasField("predicted_wait") else "not measured yet"
        denied = queue.quota_denied_until.ToJsonString() if queue.HasField("quota_denied_until") else "-"
        table.add_row(queue.model, str(queue.depth), str(queue.max_depth), str(queue.running), wait, denied, _way(queue))
    console.print(table)


def print_pool(console: Console, snapshot: operator_service_pb2.GetSnapshotResponse) -> None:
    """The degraded pool's waiting room, and what was counted."""
    pool = snapshot.degraded
    told = f"degraded pool: {pool.depth} of {pool.max_depth} places taken ({pool.held} held, {pool.rescued} rescued)"
    if pool.held:
        told += f", the oldest waits {_seconds(pool.oldest_wait)} of {_seconds(pool.max_wait)}"
    _line(console, told)
    counted = snapshot.counters
    _line(
        console,
        f"since admission started: {counted.accepted} accepted, {counted.fallbacks} fallbacks, "
        f"{counted.overloaded_depth + counted.overloaded_wait} refused as overloaded, {counted.lanes_lost} attempts lost with their lane",
    )


def _why(lane: operator_service_pb2.LaneSnapshot) -> str:
    """Why it is not ready, how far what it loads is, and what the object store says."""
    told = lane.load.stage if lane.HasField("load") else ""
    if lane.load.total_bytes:
        load = lane.load
        percent = 100 * load.read_bytes // load.total_bytes
        told += f", {percent} % ({load.read_bytes / _GIB:.1f} of {load.total_bytes / _GIB:.1f} GiB)"
    not_ready = ": ".join(part for part in (lane.reason, told) if part)
    waits = f"waits for the object store: {lane.object_store_failure}" if lane.object_store_failure else ""
    return "; ".join(part for part in (not_ready, waits) if part)


def _way(queue: operator_service_pb2.QueueSnapshot) -> str:
    """Where a request of the model goes now, why, and since when."""
    reason = enum_name(task_pb2.FallbackReason.DESCRIPTOR, queue.fallback_reason)
    if reason is None:
        return "its own lanes"
    since = f" since {queue.fallback_since.ToJsonString()}" if queue.HasField("fallback_since") else ""
    return f"the degraded pool ({reason}{since})"


def _lane(task: task_pb2.Task) -> str:
    mode = enum_name(task_pb2.LaneMode.DESCRIPTOR, task.lane_mode)
    reason = enum_name(task_pb2.FallbackReason.DESCRIPTOR, task.fallback_reason)
    parts = (task.lane_id, mode, f"because of {reason}" if reason else None, f"attempt {task.attempt}" if task.attempt else None)
    return ", ".join(part for part in parts if part)


def _table(*headings: str) -> Table:
    """Every column as wide as its content, the last one folded where the terminal ends."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        last = heading == headings[-1]
        table.add_column(heading, no_wrap=not last, overflow="fold" if last else "ellipsis")
    return table


def _seconds(duration: Duration) -> str:
    return f"{duration.ToTimedelta().total_seconds():.1f} s"


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
