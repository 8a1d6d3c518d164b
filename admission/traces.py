"""Writes the spans of tasks: what waited for how long, and what became of each attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from admission.core.tasks import FailureCode, Stage, TaskState
from runtime.traces import names
from runtime.traces.context import TraceContext, attempt_span_id, derived_span_id, of_stored
from runtime.traces.tracer import Span, Value

if TYPE_CHECKING:
    from admission.core.commands import ReplyOverloaded, ReplyRefused
    from admission.core.tasks import Event, Task, TaskId
    from runtime.traces.tracer import Tracer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ENDS_OF_LEASES = ("lane_lost", "lease_returned")


class TaskTraces:
    """Implements `admission.observer.Observer`. Belongs to the event loop.

    Everything that it writes stood in the store before. What the process had not sent when it died is missing in the trace; nothing is
    there twice, as the ids of spans are made of the task and the attempt.
    """

    def __init__(self, tracer: Tracer) -> None:
        """Writes by this tracer."""
        self._tracer = tracer
        # Leases that no lane has taken up yet, as far as this process gave them.
        self._given: dict[TaskId, int] = {}
        self._ended: tuple[TaskId, int] | None = None

    def recorded(self, event: Event, task: Task | None) -> None:
        """See `Observer`."""
        if task is None or not task.trace:
            return
        match event.event_type:
            case "accepted":
                if task.queued_at is not None and task.queued_at > task.created_at:
                    self._write(task, names.HELD, task.created_at, task.queued_at)
            case "attempt_started":
                self._started(event, task)
            case "attempt_ended":
                self._attempt_ended(event, task, event.value)
            case event_type if event_type in _ENDS_OF_LEASES:
                self._attempt_ended(event, task, event_type)
            case "ended":
                self._task_ended(event, task)
            case _:
                pass

    def shown(self, task: Task) -> None:
        """See `Observer`. The first that a lane says of an attempt ends its dispatch."""
        if task.stage is Stage.DISPATCH or self._given.get(task.task_id) != task.attempt:
            return
        del self._given[task.task_id]
        if task.state is TaskState.LEASED and task.leased_at is not None:
            self._write(task, names.DISPATCH, task.leased_at, task.updated_at)

    def refused(self, reply: ReplyOverloaded | ReplyRefused) -> None:
        """See `Observer`. The span of the call says it."""

    def committed(self, *, decisions: int, seconds: float) -> None:
        """See `Observer`. A commit is of many tasks."""

    def not_committed(self) -> None:
        """See `Observer`."""

    def _started(self, event: Event, task: Task) -> None:
        # A store that was away may have merged this with later decisions: then it is not what the event tells of.
        if task.attempt != event.attempt or task.leased_at is None or task.queued_at is None:
            return
        self._given[task.task_id] = task.attempt
        self._write(task, names.QUEUE_WAIT, task.queued_at, task.leased_at)

    def _attempt_ended(self, event: Event, task: Task, end: str) -> None:
        self._given.pop(task.task_id, None)
        if task.attempt != event.attempt or task.leased_at is None:
            return
        self._ended = (task.task_id, task.attempt)
        attributes: dict[str, Value] = {names.END: end, names.LANE: task.lane_id or ""}
        if task.lane_mode is not None:
            attributes[names.LANE_MODE] = task.lane_mode.value
        if task.fallback_reason is not None:
            attributes[names.FALLBACK_REASON] = task.fallback_reason.value
        name = names.attempt(task.attempt)
        self._write(task, name, task.leased_at, event.created_at, is_failed=end not in _NO_FAILURES, attributes=attributes)

    def _task_ended(self, event: Event, task: Task) -> None:
        """What it was in when it ended, unless that has been told: an attempt that is cancelled or overdue, a wait that nobody ended."""
        if task.state is TaskState.LEASED and self._ended != (task.task_id, task.attempt):
            self._attempt_ended(event, task, event.reason or event.value)
        elif task.state is TaskState.QUEUED and task.queued_at is not None:
            attributes: dict[str, Value] = {names.END: event.reason}
            is_failed = event.reason not in _NO_FAILURES
            self._write(task, names.QUEUE_WAIT, task.queued_at, event.created_at, is_failed=is_failed, attributes=attributes)

    def _write(
        self,
        task: Task,
        name: str,
        began: datetime,
        ended: datetime,
        *,
        is_failed: bool = False,
        attributes: dict[str, Value] | None = None,
    ) -> None:
        context = of_stored(task.trace)
        if context is None or not context.is_sampled:
            return
        is_of_attempt = name == names.DISPATCH
        parent_id = attempt_span_id(context.trace_id, task.task_id, task.attempt) if is_of_attempt else context.span_id
        self._tracer.write(
            Span(
                name=name,
                context=context.at(_span_id(context, task, name)),
                parent_id=parent_id,
                began_ns=_ns(began),
                ended_ns=_ns(ended),
                attributes={names.TASK: task.task_id, names.MODEL: task.model, names.ATTEMPT: task.attempt, **(attributes or {})},
                is_failed=is_failed,
            )
        )


_NO_FAILURES = frozenset({"done", "lease_returned", FailureCode.CANCELLED.value})


def _span_id(context: TraceContext, task: Task, name: str) -> str:
    if name == names.attempt(task.attempt):
        return attempt_span_id(context.trace_id, task.task_id, task.attempt)
    return derived_span_id(context.trace_id, task.task_id, task.attempt, name)


def _ns(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND * 1000
