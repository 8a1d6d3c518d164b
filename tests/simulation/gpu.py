"""What a simulated GPU has, and what renders take of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from admission.core.fit import shape_of
from runtime.fit.predict import peak_bytes
from tests.simulation.fitting import asked

if TYPE_CHECKING:
    from admission.core.tasks import Task
    from runtime.fit.cost import WorkerMemory


def taken_bytes(memory: WorkerMemory | None, task: Task, placement: str, times: float) -> int:
    """The ladder's peak, so many times, and no more than there is. Not by the lease: what earlier renders taught admission changes nothing
    of what this one takes. 0 for a lane that never said what it has."""
    if memory is None:
        return 0
    rungs = [rung for ladder in memory.ladders if ladder.model == task.model for rung in ladder.rungs if rung.placement == placement]
    free_bytes = memory.limits.total_bytes - memory.limits.other_bytes
    return min(int(peak_bytes(rungs[0], shape_of(asked(task))) * times), free_bytes) if rungs else 0
