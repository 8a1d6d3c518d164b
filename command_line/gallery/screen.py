"""How an import is shown while it goes on: a bar on a terminal, a line for every so many rows anywhere else."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_TOLD_EVERY = 500


class ImportScreen:
    """Shows one import. Use as a context manager."""

    def __init__(self, console: Console, total: int, *, visible: bool = True) -> None:
        """Shows so many rows on the console, or nothing at all."""
        self._console = console
        self._total = total
        self._visible = visible
        self._bar: Progress | None = None
        self._done = 0

    def __enter__(self) -> ImportScreen:
        """Begins; the bar is drawn on a terminal only."""
        if self._console.is_terminal and self._visible:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("rows", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One more row is dealt with."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])
        elif self._visible and self._done % _TOLD_EVERY == 0:
            self._console.print(f"{self._done} of {self._total} rows", markup=False, highlight=False)
