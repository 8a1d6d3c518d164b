"""Shows a run: a line for each check as it ends, what goes on meanwhile for people at a terminal, or one JSON document at the end."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from command_line.smoke.outcome import CheckResult, Outcome

_COLOURS = {Outcome.OK: typer.colors.GREEN, Outcome.FAILED: typer.colors.RED, Outcome.SKIPPED: typer.colors.YELLOW}
_NAME_CHARACTERS = 24
# Replies of strangers are quoted in sentences.
_MOST_CHARACTERS = 500


class Screen:
    """Use as a context manager while the checks run."""

    def __init__(self, *, as_json: bool) -> None:
        """Nothing was shown yet."""
        self._as_json = as_json
        self._results: list[CheckResult] = []
        console = Console(stderr=True)
        self._status: Status | None = console.status("starting") if console.is_terminal and not as_json else None

    def __enter__(self) -> Screen:
        """Begins to show what goes on."""
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends that."""
        if self._status is not None:
            self._status.stop()

    @property
    def has_failure(self) -> bool:
        """A check failed."""
        return any(result.outcome is Outcome.FAILED for result in self._results)

    def tell(self, text: str) -> None:
        """What goes on now."""
        if self._status is not None:
            self._status.update(escape(_plain(text)))

    def say(self, text: str) -> None:
        """A sentence for people, not a part of the result."""
        typer.echo(text, err=True)

    def show(self, result: CheckResult) -> None:
        """A check that ended."""
        self._results.append(result)
        if self._as_json:
            return
        if self._status is not None:
            self._status.stop()
        outcome = typer.style(f"{result.outcome:8}", fg=_COLOURS[result.outcome])
        typer.echo(f"{outcome}{result.name:{_NAME_CHARACTERS}} {_plain(result.detail)}")
        if result.advice:
            typer.echo(f"{'':8}{'':{_NAME_CHARACTERS}} -> {_plain(result.advice)}")
        if self._status is not None:
            self._status.start()

    def finish(self, url: str) -> None:
        """The end of the report."""
        counts = Counter(result.outcome for result in self._results)
        if self._as_json:
            document = {
                "url": url,
                "ok": not self.has_failure,
                **{outcome.value: counts[outcome] for outcome in Outcome if outcome is not Outcome.OK},
                "checks": [{**asdict(result), "duration_s": round(result.duration_s, 3)} for result in self._results],
            }
            typer.echo(json.dumps(document, indent=2))
        else:
            told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
            typer.echo(f"{url}: {told}.")


def _plain(text: str) -> str:
    """Without what a terminal would obey, and not longer than a person reads."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return shown if len(shown) <= _MOST_CHARACTERS else f"{shown[:_MOST_CHARACTERS]}..."
