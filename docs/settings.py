"""`python docs/settings.py`: writes docs/reference/settings.md, and the names that `warmlane doctor` knows, from the settings' classes.

A test compares both with what is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from admission.config import AdmissionSettings
from command_line.credentials import CommandSettings
from degraded_pool.config import Settings as PoolSettings
from http_bridge.config import BridgeSettings
from lane_anisora.config import Settings as AnisoraSettings
from lane_phr00t.config import Settings as Phr00tSettings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

_ROOT = Path(__file__).resolve().parents[1]
PAGE = _ROOT / "docs" / "reference" / "settings.md"
KNOWN = _ROOT / "command_line" / "doctor" / "known_settings.json"

PROCESSES: Mapping[str, type[BaseSettings]] = {
    "admission": AdmissionSettings,
    "lane-anisora": AnisoraSettings,
    "lane-phr00t": Phr00tSettings,
    "degraded-pool": PoolSettings,
    "http-bridge": BridgeSettings,
    "warmlane": CommandSettings,
}
_LANES = ("lane-anisora", "lane-phr00t", "degraded-pool")
_ALL = tuple(name for name in PROCESSES if name != "warmlane")

# What `warmlane` reads by options of its commands rather than by its class.
_OPTIONS = {"admission_address": "warmlane", "models_dir": "warmlane", "profile": "warmlane"}

_HEAD = """# Settings

Made from the settings' classes by `python docs/settings.py`. Each is an environment variable; a process reads its own once, at its start,
and ends with one line that names the variable when a value is wrong. [.env.example](../../.env.example) has them all with their defaults,
to copy; `warmlane doctor` names variables that nobody reads. `warmlane up` sets what a stack on one machine needs, and gives each process
only the secrets that it needs.

A variable without a value (`NAME=`) is one that is not set, except for `WARMLANE_METRICS_BIND`, where it turns metrics off. Lists are JSON.
Secrets never appear in logs, messages or this program's output.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row: a variable, with the same meaning in each of its processes.

    Attributes:
        processes: that read it.
        defaults: as they are shown, by process.
    """

    variable: str
    kind: str
    meaning: str
    processes: tuple[str, ...]
    defaults: Mapping[str, str]


def settings() -> list[Setting]:
    """Every setting of every process, in the order in which the classes name them."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for process, cls in PROCESSES.items():
        for name, field in cls.model_fields.items():
            key = (f"WARMLANE_{name.upper()}", _kind(field), field.description or "")
            found.setdefault(key, {})[process] = _default(field)
    rows = [
        Setting(variable=variable, kind=kind, meaning=meaning, processes=tuple(defaults), defaults=defaults)
        for (variable, kind, meaning), defaults in found.items()
    ]
    silent = sorted({row.variable for row in rows if not row.meaning})
    if silent:
        msg = f"settings without a description: {', '.join(silent)}"
        raise ValueError(msg)
    return rows


def page() -> str:
    """The page as it should be."""
    return _HEAD + "".join(_sections()) + _compose_section()


def known() -> str:
    """The file of names as it should be."""
    names = {row.variable for row in settings()} | set(_compose_variables())
    return json.dumps(sorted(names), indent=1) + "\n"


def _sections() -> Iterator[str]:
    rows = settings()
    groups: list[tuple[str, list[Setting]]] = [
        ("Several processes, and `warmlane` itself", [row for row in rows if not _owner(row)]),
        ("Admission", [row for row in rows if _owner(row) == "admission"]),
        ("Lanes", [row for row in rows if _owner(row) == "lanes"]),
        ("HTTP bridge", [row for row in rows if _owner(row) == "http-bridge"]),
    ]
    for title, group in groups:
        yield f"\n## {title}\n\n| variable | type | default | meaning | read by |\n|---|---|---|---|---|\n"
        yield from (_row(row) for row in sorted(group, key=lambda one: one.variable))


def _owner(row: Setting) -> str:
    processes = {name for name in row.processes if name != "warmlane"}
    if processes == {"admission"} or processes == {"http-bridge"}:
        return "" if "warmlane" in row.processes else next(iter(processes))
    return "lanes" if processes and processes <= set(_LANES) else ""


def _row(row: Setting) -> str:
    cells = (f"`{row.variable}`", row.kind, _defaults(row), row.meaning, _readers(row))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _readers(row: Setting) -> str:
    processes = list(row.processes)
    extra = _OPTIONS.get(row.variable.removeprefix("WARMLANE_").lower())
    if extra and extra not in processes:
        processes.append(extra)
    own = [name for name in processes if name != "warmlane"]
    if own == list(_ALL):
        told = ["every process"]
    elif set(_LANES) <= set(own):
        told = [name for name in own if name not in _LANES] + ["lanes"]
    else:
        told = own
    return ", ".join([*told, *(["`warmlane`"] if "warmlane" in processes else [])])


def _defaults(row: Setting) -> str:
    by_value: dict[str, list[str]] = {}
    for process, value in row.defaults.items():
        by_value.setdefault(value, []).append(process)
    if len(by_value) == 1:
        return next(iter(by_value)) or "none"
    return ", ".join(f"{value or 'none'} ({', '.join(processes)})" for value, processes in by_value.items())


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        # The only ones: a folder below the working folder.
        value = str(field.get_default(call_default_factory=True))
        return f"`{value.replace(Path.cwd().as_uri(), 'file://WORKING_FOLDER')}`"
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _kind(field: FieldInfo) -> str:
    told = _type(field.annotation)
    limits = [(sign, bound) for one in field.metadata for sign, bound in _bounds(one)]
    return told + (f", {' and '.join(f'{sign} {bound:,}' for sign, bound in limits)}" if limits else "")


def _bounds(constraint: object) -> Iterator[tuple[str, float]]:
    for name, sign in (("ge", "at least"), ("gt", "over"), ("le", "at most"), ("lt", "below")):
        bound = getattr(constraint, name, None)
        if isinstance(bound, int | float):
            yield sign, bound


def _type(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, UnionType):
        return _type(next(one for one in arguments if one is not NoneType))
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin is tuple:
        return "JSON list"
    names = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Path: "path", SecretStr: "secret"}
    told = next((name for known, name in names.items() if annotation is known), None)
    if told is None:
        msg = f"say in docs/settings.py what people call {annotation}"
        raise ValueError(msg)
    return told


def _compose_variables() -> dict[str, str]:
    """Variable to its line and comment in the part of .env.example that only the compose file reads."""
    part = (_ROOT / ".env.example").read_text(encoding="utf-8").split("# --- docker-compose only ---")[1]
    found: dict[str, str] = {}
    comment = ""
    for line in part.splitlines():
        if line.startswith("# "):
            comment = line.removeprefix("# ")
        elif match := re.match(r"#(WARMLANE_\w+)=(.*)", line):
            found[match[1]] = f"| `{match[1]}` | `{match[2]}` | {comment} |\n"
    return found


def _compose_section() -> str:
    return "\n## docker-compose only\n\n| variable | default | meaning |\n|---|---|---|\n" + "".join(_compose_variables().values())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    KNOWN.write_text(known(), encoding="utf-8")
