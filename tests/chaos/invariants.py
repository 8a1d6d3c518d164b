"""What must be true after the storm, read from the outside: over gRPC and in the folder of the object store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import grpc.aio
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

from runtime.rpc import create_channel
from tests.chaos.load import Seen
from tests.harness.light_stack import LightStack

_OPEN = (task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_LEASED)
_DONE, _FAILED, _CANCELLED = task_pb2.TASK_STATE_DONE, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED
_PAGE = 100
_POLL_S = 0.1


async def wait_until_idle(stack: LightStack, *, timeout_s: float = 120.0) -> operators.GetSnapshotResponse:
    """Returns the snapshot in which nothing waits and nothing is in work."""
    ends_s = time.monotonic() + timeout_s
    async with create_channel(stack.grpc_address) as channel:
        operator = OperatorServiceStub(channel)
        while True:
            try:
                snapshot: operators.GetSnapshotResponse = await operator.GetSnapshot(operators.GetSnapshotRequest(), timeout=5)
            except grpc.aio.AioRpcError as error:
                snapshot, problem = operators.GetSnapshotResponse(), str(error)
            else:
                if _is_idle(snapshot):
                    return snapshot
                problem = str(snapshot)
            assert time.monotonic() < ends_s, f"not idle within {timeout_s:g} s: {problem}\n{stack.tails()}"
            await asyncio.sleep(_POLL_S)


async def all_tasks(stack: LightStack) -> list[task_pb2.Task]:
    """Every task that admission knows, with its events."""
    async with create_channel(stack.grpc_address) as channel:
        admission = AdmissionServiceStub(channel)
        ids: list[str] = []
        while True:
            page = await admission.ListTasks(pb.ListTasksRequest(page=len(ids) // _PAGE + 1, page_size=_PAGE), timeout=10)
            ids += [task.task_id for task in page.tasks]
            if len(ids) >= page.total or not page.tasks:
                break
        assert len(set(ids)) == len(ids)
        return [(await admission.GetTask(pb.GetTaskRequest(task_id=task_id), timeout=10)).task for task_id in ids]


def violations(seen: Seen, tasks: Sequence[task_pb2.Task]) -> list[str]:
    """Everything that must not be, one sentence each."""
    found = list(seen.violations)
    known = {task.task_id: task for task in tasks}
    found += [f"the accepted task {task_id} is gone" for task_id in seen.accepted() - known.keys()]
    for request in seen.requests:
        if len(request.task_ids) > 1 and request.key:
            found.append(f"the key {request.key} ({request.door}) gave the tasks {sorted(request.task_ids)}")
    labels = Counter(task.request.negative_prompt for task in tasks)
    keyed = {request.label for request in seen.requests if request.key}
    found += [f"{count} tasks were made for one request" for label, count in labels.items() if count > 1 and label in keyed]
    for task in tasks:
        found += [f"{sentence}: {task}" for sentence in _of_task(task)]
    for task_id, events in seen.watched.items():
        stored = [(event.sequence, event.event_type) for event in known[task_id].events] if task_id in known else []
        if events != stored:
            found.append(f"the watcher of {task_id} was told {events}, stored is {stored}")
    return found


async def wait_for_files(stack: LightStack, tasks: Sequence[task_pb2.Task], *, timeout_s: float) -> list[str]:
    """Gives the sweep its time; what is wrong with the files after that, one sentence each."""
    ends_s = time.monotonic() + timeout_s
    while True:
        found = await asyncio.to_thread(_wrong_files, stack.objects / "results", tasks)
        if not found or time.monotonic() >= ends_s:
            return found
        await asyncio.sleep(0.5)


def summary(name: str, seen: Seen, tasks: Sequence[task_pb2.Task], **more: object) -> str:
    """One line of figures."""
    states = Counter(task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower() for task in tasks)
    codes = Counter(task.failure.code for task in tasks if task.state == _FAILED)
    ends = Counter(event.event_type for task in tasks for event in task.events)
    figures: dict[str, object] = {
        **more,
        "requests": len(seen.requests),
        "accepted": len(seen.accepted()),
        "tasks": len(tasks),
        **states,
        **{f"failed_{code}": count for code, count in codes.items()},
        "attempts": sum(task.attempt for task in tasks),
        "late_results_refused": ends["attempt_refused"],
        **{name: count for name, count in sorted(seen.counts.items()) if name != "accepted"},
        "max_depth": seen.max_depth,
    }
    return f"{name}: " + ", ".join(f"{figure} {value}" for figure, value in figures.items())


def _is_idle(snapshot: operators.GetSnapshotResponse) -> bool:
    is_empty = all(queue.depth == 0 and queue.running == 0 for queue in snapshot.queues) and snapshot.degraded.depth == 0
    return is_empty and not any(lane.task_id for lane in snapshot.lanes)


def _of_task(task: task_pb2.Task) -> list[str]:
    found = []
    if task.state in _OPEN:
        found.append("it did not end")
    ends = [event for event in task.events if event.event_type == "attempt_ended" and event.value == "done"]
    if len(ends) != (task.state == _DONE):
        found.append(f"{len(ends)} attempts ended done")
    if any(end.attempt != task.attempt for end in ends):
        found.append("another attempt than the last was committed")
    if task.HasField("result") != (task.state == _DONE):
        found.append("a result and another state than done, or the reverse")
    if task.state == _DONE and task.result.video_key != f"results/{task.task_id}/{task.attempt}/video.mp4":
        found.append("the result is not the committed attempt's")
    records = Counter(event.attempt for event in task.events if event.event_type == "memory_record")
    if records != Counter(range(1, task.attempt + 1)):
        found.append(f"memory records of the attempts {sorted(records.elements())}")
    if task.state == _FAILED and task.failure.code != "lane_lost":
        found.append("it failed although only lanes were lost")
    if [event.sequence for event in task.events] != sorted({event.sequence for event in task.events}):
        found.append("sequences do not rise")
    return found


def _wrong_files(results: Path, tasks: Sequence[task_pb2.Task]) -> list[str]:
    wanted = {task.task_id: str(task.attempt) for task in tasks if task.state == _DONE}
    there: dict[str, list[str]] = {}
    for video in results.glob("*/*/*"):
        there.setdefault(video.parts[-3], []).append("/".join(video.parts[-2:]))
    found = []
    for task_id, attempt in wanted.items():
        files = sorted(there.pop(task_id, []))
        if files != [f"{attempt}/preview.jpg", f"{attempt}/video.mp4"]:
            found.append(f"the done task {task_id} (attempt {attempt}) has the files {files}")
    found += [f"the task {task_id} has no result but the files {sorted(files)}" for task_id, files in there.items()]
    return found
