"""`python docs/commands.py`: writes docs/reference/command-line.md from the commands themselves; a test compares the two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

import typer

from command_line.__main__ import app
from command_line.failures import EXIT_CODES

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Path(__file__).with_name("reference") / "command-line.md"

_HEAD = """# The command `warmlane`

Made from the commands by `python docs/commands.py`; `warmlane COMMAND --help` shows the same. `make install` puts it into `.venv/bin`.

Commands find the stack that runs on `./warmlane-data`; another one is named with `--address HOST:PORT` or `WARMLANE_ADMISSION_ADDRESS`.
Tokens and TLS come from the environment (`WARMLANE_CLIENT_TOKEN`, `WARMLANE_OPERATOR_TOKEN`, `WARMLANE_TLS_…`: [settings](settings.md)).
With `--json`, data goes to standard output as JSON and everything else to standard error; fields and values are named as in the protos.
"""

_COMPLETION = """
## Completion

`warmlane --install-completion` teaches the shell that you use (bash, zsh, fish) to complete commands, options, and the names of tasks,
lanes, models, modes, GPUs and processes; `--show-completion` prints what it would install. Tasks and lanes are asked of the running stack,
for at most a second; without one nothing is offered and nothing is said.
"""


def page() -> str:
    """The page as it should be."""
    root = typer.main.get_command(app)
    sections = "".join(_command(("warmlane", *words), command) for words, command in _commands(root, ()))
    return _HEAD + _exit_codes() + _COMPLETION + _index(root) + sections


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it; those of groups too."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def _exit_codes() -> str:
    rows = "".join(f"| {int(code)} | {told} |\n" for code, told in EXIT_CODES.items())
    return f"\n## Exit codes\n\n| code | means |\n|---|---|\n{rows}"


def _index(root: Any) -> str:
    rows = "".join(
        f"| [`{' '.join(words)}`](#warmlane-{'-'.join(words)}) | {_cell(_sentences(command)[0])} |\n"
        for words, command in _commands(root, ())
    )
    return f"\n## Commands\n\n| command | does |\n|---|---|\n{rows}"


def _command(words: Sequence[str], command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden and one.name != "help"]
    usage = " ".join([*words, *(_argument(one) for one in arguments), *(["[OPTIONS]"] if options else [])])
    text = "\n\n".join(_sentences(command))
    return f"\n## {' '.join(words)}\n\n{text}\n\n```\n{usage}\n```\n{_table(arguments, options)}{_epilog(command)}"


def _table(arguments: Sequence[Any], options: Sequence[Any]) -> str:
    rows = [f"| {_cell(f'`{one.metavar}`')} | {_cell(one.help or '')} | required |\n" for one in arguments]
    rows += [f"| {_names(one)} | {_cell(one.help or '')} | {_default(one)} |\n" for one in options]
    return f"\n| argument, option | meaning | default |\n|---|---|---|\n{''.join(rows)}" if rows else ""


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    name = name if parameter.nargs == 1 else f"{name}…"
    return name if parameter.required else f"[{name}]"


def _names(option: Any) -> str:
    """`--steps N`; a switch has no value, an option that may be repeated says so."""
    named = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {_value(option)}"
    variable = f" (or `{option.envvar}`)" if option.envvar else ""
    return _cell(f"`{named}{value}`") + ("…" if option.multiple else "") + variable


def _value(option: Any) -> str:
    """What stands for the value: its own name, its choices, or what kind it is."""
    kind = _plain(option.type_descriptor.annotation)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(one.value) for one in kind)
    return str(option.metavar or {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT"))


def _plain(annotation: Any) -> Any:
    """The type itself, of one that may be absent or repeated."""
    inner = [one for one in get_args(annotation) if one is not NoneType]
    return _plain(inner[0]) if inner else annotation


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.default
    if not option.show_default or value is None or option.is_flag or value in ("", ()):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _epilog(command: Any) -> str:
    """Examples as one block to paste, and the exit codes below."""
    paragraphs = [one.strip() for one in (command.epilog or "").split("\n\n") if one.strip()]
    examples = [one for one in paragraphs if one.startswith("warmlane ")]
    rest = [one for one in paragraphs if not one.startswith("warmlane ") and one != "Examples:"]
    block = "\n```\n" + "\n".join(examples) + "\n```\n" if examples else ""
    return block + "".join(f"\n{' '.join(one.split())}\n" for one in rest)


def _sentences(command: Any) -> list[str]:
    """Paragraphs of the help, each in one line."""
    return [" ".join(one.split()) for one in (command.help or "").split("\n\n")]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
