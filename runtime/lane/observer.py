"""Who is told what a lane's worker and its attempts do: to count it, to write spans of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from runtime.lane.child_protocol import PartEnded
    from runtime.lane.outcome import Outcome
    from runtime.lane.state import Attempt
    from runtime.lane.work import WorkerStatus
    from runtime.traces.context import TraceContext


class LaneObserver(Protocol):
    """Is told on the agent's event loop: quick, and never raises."""

    @property
    def wants_parts(self) -> bool:
        """It wants to be told of the parts of attempts; asked for at each attempt."""
        ...

    def status_changed(self, status: WorkerStatus) -> None:
        """What can be said of the pipeline's process is another than before."""
        ...

    def attempt_started(self, attempt: Attempt, model: str, context: TraceContext | None) -> None:
        """The lane took an attempt for the model up; `context`: of the task's trace."""
        ...

    def part_ended(self, event: PartEnded) -> None:
        """A part of an attempt is over."""
        ...

    def attempt_ended(self, attempt: Attempt, model: str, steps: int, outcome: Outcome) -> None:
        """An attempt for the model ended, done or not; it had so many denoising steps to do."""
        ...


class _Silent:
    """Counts nothing."""

    @property
    def wants_parts(self) -> bool:
        """No."""
        return False

    def status_changed(self, status: WorkerStatus) -> None:
        """Nothing."""

    def attempt_started(self, attempt: Attempt, model: str, context: TraceContext | None) -> None:
        """Nothing."""

    def part_ended(self, event: PartEnded) -> None:
        """Nothing."""

    def attempt_ended(self, attempt: Attempt, model: str, steps: int, outcome: Outcome) -> None:
        """Nothing."""


SILENT: LaneObserver = _Silent()


class Both:
    """Tells two observers, one after the other."""

    def __init__(self, first: LaneObserver, second: LaneObserver) -> None:
        """These."""
        self._first = first
        self._second = second

    @property
    def wants_parts(self) -> bool:
        """One of them does."""
        return self._first.wants_parts or self._second.wants_parts

    def status_changed(self, status: WorkerStatus) -> None:
        """See `LaneObserver`."""
        self._first.status_changed(status)
        self._second.status_changed(status)

    def attempt_started(self, attempt: Attempt, model: str, context: TraceContext | None) -> None:
        """See `LaneObserver`."""
        self._first.attempt_started(attempt, model, context)
        self._second.attempt_started(attempt, model, context)

    def part_ended(self, event: PartEnded) -> None:
        """See `LaneObserver`."""
        self._first.part_ended(event)
        self._second.part_ended(event)

    def attempt_ended(self, attempt: Attempt, model: str, steps: int, outcome: Outcome) -> None:
        """See `LaneObserver`."""
        self._first.attempt_ended(attempt, model, steps, outcome)
        self._second.attempt_ended(attempt, model, steps, outcome)
