"""Who is told what a lane's worker and its attempts do, to count it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from runtime.lane.outcome import Outcome
    from runtime.lane.work import WorkerStatus


class LaneObserver(Protocol):
    """Is told on the agent's event loop: quick, and never raises."""

    def status_changed(self, status: WorkerStatus) -> None:
        """What can be said of the pipeline's process is another than before."""
        ...

    def attempt_ended(self, model: str, steps: int, outcome: Outcome) -> None:
        """An attempt for the model ended, done or not; it had so many denoising steps to do."""
        ...


class _Silent:
    """Counts nothing."""

    def status_changed(self, status: WorkerStatus) -> None:
        """Nothing."""

    def attempt_ended(self, model: str, steps: int, outcome: Outcome) -> None:
        """Nothing."""


SILENT: LaneObserver = _Silent()
