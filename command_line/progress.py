"""How a task's way is shown while somebody waits: a progress bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from warmlane.admission.v1 import task_pb2

from command_line.documents import enum_name

_HUNDRED = 100


class TaskProgress:
    """Shows one task. Use as a context manager."""

    def __init__(self, console: Console, *, visible: bool = True) -> None:
        """Shows on the console, or nothing at all."""
        self._console = console
        self._visible = visible
        self._bar: Progress | None = None
        self._last_line = ""

    def __enter__(self) -> TaskProgress:
        """Begins; the bar is drawn on a terminal only."""
        if self._console.is_terminal and self._visible:
            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("sending", total=_HUNDRED)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, task: task_pb2.Task) -> None:
        """Shows the task as it stands."""
        text = describe(task)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=task.progress, description=escape(text))
        elif self._visible and (line := f"{task.task_id}: {task.progress} % {text}") != self._last_line:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._last_line = line


def describe(task: task_pb2.Task) -> str:
    """What is being done, in a few words."""
    stage = enum_name(task_pb2.Stage.DESCRIPTOR, task.stage) or "queued"
    details = [task.stage_detail]
    if task.HasField("queue_position"):
        details.append(f"{task.queue_position} ahead")
    if task.lane_mode == task_pb2.LANE_MODE_DEGRADED_SHARED:
        details.append("shared pool")
    if task.attempt > 1:
        details.append(f"attempt {task.attempt}")
    told = ", ".join(detail for detail in details if detail)
    return f"{stage.replace('_', ' ')} ({told})" if told else stage.replace("_", " ")
