"""`python docs/task_states.py`: writes docs/task-states.md from the table of transitions; a test compares the two."""

from __future__ import annotations

from pathlib import Path

from admission.core.tasks import TERMINAL, TRANSITIONS, TaskState

_PAGE = Path(__file__).with_name("task-states.md")

# What leads from one state to the other, for people. A transition of the table without a line here, or the other way round, is an error.
_WHY = {
    (TaskState.HELD, TaskState.QUEUED): "its model's queue opened",
    (TaskState.HELD, TaskState.LEASED): "a pool worker takes it",
    (TaskState.QUEUED, TaskState.LEASED): "a lane takes it: attempt n+1",
    (TaskState.QUEUED, TaskState.FAILED): "not started within 60 minutes",
    (TaskState.QUEUED, TaskState.CANCELLED): "cancelled",
    (TaskState.LEASED, TaskState.QUEUED): "the lane was lost, or gave it back",
    (TaskState.LEASED, TaskState.DONE): "the current attempt's result is committed",
    (TaskState.LEASED, TaskState.FAILED): "it failed, its deadline passed, or the third lane was lost",
    (TaskState.LEASED, TaskState.CANCELLED): "cancelled",
}


def page() -> str:
    """The page as it should be.

    Raises:
        ValueError: the table and the reasons name different transitions.
    """
    table = {(before, after) for before, states in TRANSITIONS.items() for after in states}
    if table != set(_WHY):
        msg = f"say why in docs/task_states.py: {sorted(table ^ set(_WHY))}"
        raise ValueError(msg)
    arrows = [f"    {before} --> {after}: {why}" for (before, after), why in _WHY.items()]
    ends = [f"    {state} --> [*]" for state in TaskState if state in TERMINAL]
    lines = [
        "# The states of a task",
        "",
        "Made from the table `TRANSITIONS` in `admission/core/tasks.py` by `python docs/task_states.py`; a transition that is not in",
        "the table raises with the task's story. `held` lives in memory only, before acceptance; a held request that is refused or whose",
        "caller leaves just vanishes. All other states are durable, and the last three never change.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> held: a valid request came",
        *arrows,
        *ends,
        "```",
        "",
        "A request goes through `held` to `queued` in one step when its model's queue is open, and a queued task to `leased` in the same",
        "step when a lane is idle: one write makes both durable.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    _PAGE.write_text(page(), encoding="utf-8")
