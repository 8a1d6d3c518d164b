"""The commands `warmlane settings check` and `warmlane settings show`; neither asks a server."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from command_line.epilogs import epilog
from command_line.failures import ExitCode
from command_line.options import AsJson
from command_line.settings.comparison import compare
from command_line.settings.differences import Difference, Severity, error
from command_line.settings.reading import read_settings
from command_line.tables import output_console
from runtime.rules.settings_file import settings_text

settings = typer.Typer(help="The frontend's settings file, made from the server's rules, and compared with them.", no_args_is_help=True)

_SHOW = epilog("warmlane settings show > inference_settings.json", exit_codes="Exit codes: 0 done as asked.")
_CHECK = epilog(
    "warmlane settings check inference_settings.json",
    exit_codes="Exit codes: 0 the file agrees with the server; 1 it does not; 2 it cannot be read or is not JSON.",
)


@settings.command(epilog=_SHOW)
def show() -> None:
    """Print the settings file that is made from the rules of this version."""
    typer.echo(settings_text(), nl=False)


@settings.command(epilog=_CHECK)
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="A settings file, JSON.")], as_json: AsJson = False) -> None:
    """Compare a settings file with the server's rules, and name every difference.

    An error: the server refuses what such a form sends, ignores it, or does something else than the form says. A note: all of it is taken,
    and it offers more or less than the file of this version.
    """
    document, repeated = read_settings(file)
    differences = [error("", "key_twice", f"the key {name!a} stands twice in an object; readers take one of them") for name in repeated]
    differences += compare(document)
    errors = sum(one.severity is Severity.ERROR for one in differences)
    if as_json:
        typer.echo(json.dumps(_document(file, differences), indent=2))
    else:
        _print(file, differences, errors)
    if errors:
        raise typer.Exit(ExitCode.FAILED)


def _document(file: Path, differences: list[Difference]) -> dict[str, object]:
    errors = sum(one.severity is Severity.ERROR for one in differences)
    return {
        "file": str(file),
        "agrees": not errors,
        "errors": errors,
        "notes": len(differences) - errors,
        "differences": [asdict(one) for one in differences],
    }


def _print(file: Path, differences: list[Difference], errors: int) -> None:
    console = output_console()
    if differences:
        table = Table(box=None, pad_edge=False)
        for heading in ("severity", "where", "what"):
            table.add_column(heading, overflow="fold")
        # Errors first: they are what is to be done.
        for one in sorted(differences, key=lambda one: one.severity is Severity.NOTE):
            colour = "red" if one.severity is Severity.ERROR else "dim"
            table.add_row(f"[{colour}]{one.severity}[/]", escape(one.path or "(top)"), escape(one.message))
        console.print(table)
    notes = len(differences) - errors
    told = f"{errors} errors, {notes} notes" if differences else "no difference"
    typer.echo(f"{file}: {'does not agree' if errors else 'agrees'} with the server's rules ({told}).")
