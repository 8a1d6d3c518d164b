"""What `warmlane up` shows: a live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.status import Status
from rich.text import Text


class Screen:
    """Prints the story of a stack. Implements `supervisor.Reporter`."""

    def __init__(self, console: Console) -> None:
        """Prints to the console; shows a live line when it is a terminal."""
        self._console = console
        self._status: Status | None = None
        self._told: set[str] = set()

    def line(self, text: str, *, style: str | None = None) -> None:
        """Prints one line as it is: nothing in it is markup, nothing is wrapped, so that commands can be pasted."""
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def waiting(self, waits: Sequence[str]) -> None:
        """Shows what is waited for; an empty list ends the waiting."""
        if not waits:
            self.close()
        elif not self._console.is_terminal:
            # Once each: a lane that fails in circles would fill a file with the same few lines.
            for wait in waits:
                if wait not in self._told:
                    self._told.add(wait)
                    self.line(f"waiting for {wait}")
        elif self._status is None:
            self._status = self._console.status(Text(_live(waits)))
            self._status.start()
        else:
            self._status.update(Text(_live(waits)))

    def close(self) -> None:
        """Takes the live line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def process_started(self, name: str, pid: int) -> None:
        """A process runs, for the first time or again."""
        self.line(f"{name}: started (process {pid})")

    def process_ended(self, name: str, how: str, *, restart_in_s: float) -> None:
        """A process ended that should run."""
        self.line(f"{name}: ended ({how}); starts again in {restart_in_s:g} s", style="yellow")

    def process_keeps_ending(self, name: str, *, times: int, log_tail: Sequence[str], log_path: str) -> None:
        """A process ended again and again; the last lines of its log say why."""
        self.line(f"{name}: ended {times} times in a row. The last lines of {log_path}:", style="red")
        for line in log_tail or ["(nothing was logged)"]:
            self.line(f"    {line}")

    def process_stopped(self, name: str, how: str, *, killed: bool) -> None:
        """A process ended because it was told to."""
        self.line(f"{name}: did not stop in time and was killed" if killed else f"{name}: stopped ({how})")


def _live(waits: Sequence[str]) -> str:
    return "waiting for " + ", ".join(waits)
