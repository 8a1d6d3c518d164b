"""Who is told what admission decides and writes: to count it, to write spans of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from admission.core.commands import ReplyOverloaded, ReplyRefused
    from admission.core.tasks import Event, Task


class CommitObserver(Protocol):
    """Is told how the store does. As below: quick, and never raises."""

    def committed(self, *, decisions: int, seconds: float) -> None:
        """So many decisions reached the disk in one transaction, which took so long."""
        ...

    def not_committed(self) -> None:
        """The store could not take a transaction."""
        ...


class Observer(CommitObserver, Protocol):
    """Is told on the event loop, in the middle of every decision: quick, and never raises."""

    def recorded(self, event: Event, task: Task | None) -> None:
        """The event is on disk. `task`: the one that it concerns as the same decision made it; None: it has ended, or it concerns none."""
        ...

    def shown(self, task: Task) -> None:
        """The task as it is on disk now; of several changes in a row perhaps only the last."""
        ...

    def refused(self, reply: ReplyOverloaded | ReplyRefused) -> None:
        """A valid request was not taken."""
        ...


class _Silent:
    """Counts nothing."""

    def recorded(self, event: Event, task: Task | None) -> None:
        """Nothing."""

    def shown(self, task: Task) -> None:
        """Nothing."""

    def refused(self, reply: ReplyOverloaded | ReplyRefused) -> None:
        """Nothing."""

    def committed(self, *, decisions: int, seconds: float) -> None:
        """Nothing."""

    def not_committed(self) -> None:
        """Nothing."""


SILENT: Observer = _Silent()


class Both:
    """Tells two observers, one after the other."""

    def __init__(self, first: Observer, second: Observer) -> None:
        """These."""
        self._first = first
        self._second = second
        # Looked up once: these are told of in every acceptance.
        self._recorded = first.recorded, second.recorded
        self._shown = first.shown, second.shown

    def recorded(self, event: Event, task: Task | None) -> None:
        """See `Observer`."""
        first, second = self._recorded
        first(event, task)
        second(event, task)

    def shown(self, task: Task) -> None:
        """See `Observer`."""
        first, second = self._shown
        first(task)
        second(task)

    def refused(self, reply: ReplyOverloaded | ReplyRefused) -> None:
        """See `Observer`."""
        self._first.refused(reply)
        self._second.refused(reply)

    def committed(self, *, decisions: int, seconds: float) -> None:
        """See `Observer`."""
        self._first.committed(decisions=decisions, seconds=seconds)
        self._second.committed(decisions=decisions, seconds=seconds)

    def not_committed(self) -> None:
        """See `Observer`."""
        self._first.not_committed()
        self._second.not_committed()
