"""Faults of Fit: what is refused, what is given to whom, and what is known after a restart. Each is a mutation of the real code."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from admission.core import contact, learning, matching, refusals, routing
from admission.core.commands import Refusal
from admission.core.fit import Group
from admission.core.lanes import KnownLane
from admission.core.refusals import Basis, Verdicts
from admission.core.state import Lane, State, Turn
from admission.core.tasks import Model, Task, TaskId
from runtime.fit.cost import ModelLadder


def head_goes_anywhere() -> AbstractContextManager[object]:
    """A lane takes the first of the queue whether it fits or not."""

    def head(state: State, model: Model) -> tuple[Lane, Task] | None:
        idle, first = state.idle.get(model), state.queues[model].peek()
        return (state.lanes[next(iter(idle))], state.tasks[first]) if idle and first is not None else None

    return patch.object(matching, "next_of_queue", head)


def pool_takes_anything() -> AbstractContextManager[object]:
    """The pool takes what is oldest whether it fits or not."""

    def oldest(state: State, lane: Lane) -> Task | None:
        waiting = (state.tasks[task_id] for task_id in (*state.rescued, *state.held))
        return next((task for task in waiting if task.model in lane.spec.models), None)

    return patch.object(matching, "next_of_pool", oldest)


def nothing_is_refused() -> AbstractContextManager[object]:
    """Fit is not asked."""
    return patch.object(routing, "refusal", lambda state, model, key: None)


def refused_is_kept() -> AbstractContextManager[object]:
    """A refused request is held all the same."""
    refuse = routing._refuse_for_good

    def sticky(turn: Turn, task_id: TaskId, model: Model, found: Refusal) -> None:
        refuse(turn, task_id, model, found)
        known = next(iter(turn.state.tasks.values()), None)
        if known is not None:
            turn.state.tasks[task_id] = replace(known, task_id=task_id)

    return patch.object(routing, "_refuse_for_good", sticky)


def absent_lanes_do_not_count() -> AbstractContextManager[object]:
    """Only lanes that are ready decide what is refused."""
    basis = refusals._known_basis

    def of_ready(state: State, model: Model) -> Basis:
        lanes = {lane_id: lane for lane_id, lane in state.lanes.items() if lane.is_ready}
        known, state.lanes = state.lanes, lanes
        found = basis(state, model)
        state.lanes = known
        return found

    return patch.object(refusals, "_known_basis", of_ready)


def verdicts_go_stale() -> AbstractContextManager[object]:
    """What was found out about a shape is believed for ever."""
    return patch.object(Verdicts, "renew", lambda self, versions: None)


def memory_forgotten_at_restart() -> AbstractContextManager[object]:
    """What lanes measured ends with the process."""
    restore = contact.restore

    def blank(turn: Turn, known: KnownLane) -> None:
        restore(turn, replace(known, spec=replace(known.spec, memory=None)))

    return patch.object(contact, "restore", blank)


def learned_forgotten_at_restart() -> AbstractContextManager[object]:
    """What attempts taught ends with the process."""
    return patch.object(learning, "restore", lambda turn, learned: None)


def retirement_ignored() -> AbstractContextManager[object]:
    """A placement that was taken out of use is used."""
    init = Group.__init__

    def all_rungs(self: Group, gpu: str, ladder: ModelLadder, retired: frozenset[str]) -> None:
        init(self, gpu, ladder, frozenset())

    return patch.object(Group, "__init__", all_rungs)


def corrections_ignored() -> AbstractContextManager[object]:
    """What was measured does not raise predictions."""
    return patch.object(Group, "correct", lambda self, excesses: None)


def lease_without_placement() -> AbstractContextManager[object]:
    """A lane is not told how to lay the weights."""
    fit = Lane.fit

    def silent(self: Lane, model: Model, key: Any) -> Any:
        found = fit(self, model, key)
        return None if found is None else replace(found, placement="")

    return patch.object(Lane, "fit", silent)
