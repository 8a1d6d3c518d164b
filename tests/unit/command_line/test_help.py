"""Every command helps: what it does, examples that are themselves right, and its exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from command_line.__main__ import app
from command_line.failures import EXIT_CODES, ExitCode

# What they say is for whoever sits before them, or is JSON anyway.
_WITHOUT_JSON = {("up",), ("settings", "show")}


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_tells_the_exit_codes_of_every_command(runner: CliRunner, words: tuple[str, ...]) -> None:
    ran = runner.invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert ran.exit_code == 0
    assert "Exit codes" in ran.stdout
    told = {int(code) for code in re.findall(r"(?:Exit codes:|;|,) (\d+) ", COMMANDS[words].epilog)}
    assert told <= set(ExitCode)
    assert ExitCode.OK in told


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_of_itself(words: tuple[str, ...]) -> None:
    assert any(example.startswith(" ".join(["warmlane", *words])) for example in _examples())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_data_is_printed_as_json_too_when_a_command_prints_any(words: tuple[str, ...]) -> None:
    names = {option for parameter in COMMANDS[words].params for option in parameter.opts}
    assert ("--json" in names) is (words not in _WITHOUT_JSON)


def _examples() -> list[str]:
    return [
        line.strip()
        for command in COMMANDS.values()
        for line in re.split(r"\n\s*\n", command.epilog or "")
        if line.strip().startswith("warmlane ")
    ]


@pytest.mark.parametrize("example", _examples())
def test_example_is_taken_by_the_parser_when_it_is_pasted(example: str) -> None:
    _, *rest = shlex.split(example.partition(" > ")[0])
    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="warmlane")
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    # Parses, and runs nothing.
    made = command.make_context(command.name, rest, parent=context)
    assert made.command is command


def test_every_exit_code_has_a_meaning() -> None:
    assert set(EXIT_CODES) == set(ExitCode)
