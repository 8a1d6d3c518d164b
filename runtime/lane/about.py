"""What the log lines of a lane are about: the task, attempt and model that the code works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from structlog.contextvars import bound_contextvars

from runtime.lane.state import Attempt
from runtime.traces.current import logged


class About(NamedTuple):
    """An attempt as log lines have it. `model`: empty: not known any more. `trace_id`: empty: its task has no trace."""

    attempt: Attempt
    model: str
    trace_id: str = ""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Log lines within the block, of this thread or asyncio task, say so."""
        facts = {"task": self.attempt.task_id, "attempt": self.attempt.number}
        of_model = {"model": self.model} if self.model else {}
        with bound_contextvars(**facts, **of_model), logged(self.trace_id):
            yield
