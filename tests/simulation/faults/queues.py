"""Faults of the degraded queue and of the turns that callers take. Each is a mutation of the real code, undone afterwards."""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest.mock import patch

from admission import engine
from admission.core import rescues, routing
from admission.core.fair_queue import FairQueue
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.state import Turn
from admission.core.tasks import Task, TaskId
from tests.simulation import world


def depth_26() -> AbstractContextManager[object]:
    """One request too many is held."""
    return patch.object(world, "Limits", lambda **changes: Limits(degraded_depth=26, **changes))


def six_rescued() -> AbstractContextManager[object]:
    """Rescued tasks take more places than they may."""
    return patch.object(rescues, "_has_place", lambda turn: True)


def expiry_does_not_win() -> AbstractContextManager[object]:
    """At exactly the limit a request still waits."""
    expire = routing.expire_held

    def late(turn: Turn, task_id: TaskId) -> None:
        since_s = turn.state.held.get(task_id)
        if since_s is not None and turn.now_s > since_s + turn.state.limits.degraded_wait_s:
            expire(turn, task_id)

    return patch.object(routing, "expire_held", late)


def timer_is_late() -> AbstractContextManager[object]:
    """The engine looks at what is due half a second late."""
    arm = engine.Engine._arm_timer

    def lazy(self: engine.Engine) -> None:
        due = self._core.next_due_s
        with patch.object(self._core, "next_due_s", lambda: None if due() is None else (due() or 0.0) + 0.5):
            arm(self)

    return patch.object(engine.Engine, "_arm_timer", lazy)


def place_kept_after_hang_up() -> AbstractContextManager[object]:
    """A caller that goes away leaves its place taken."""
    return patch.object(QueueState, "_caller_left", lambda self, turn, task_id, may_return: None)


def newest_first() -> AbstractContextManager[object]:
    """The newest held request goes first."""
    hold = routing._hold

    def behind(turn: Turn, task: Task, since_s: float) -> None:
        hold(turn, task, since_s)
        turn.state.held = dict(reversed(turn.state.held.items()))

    return patch.object(routing, "_hold", behind)


def held_are_passed() -> AbstractContextManager[object]:
    """A new request enters the queue before those that are held for it."""
    return patch.object(routing, "take_held", lambda turn, model: None)


def no_turns() -> AbstractContextManager[object]:
    """Callers of a queue do not take turns."""
    return patch.object(FairQueue, "take", lambda self, task_id, owner, is_turn: self.remove(task_id, owner))
