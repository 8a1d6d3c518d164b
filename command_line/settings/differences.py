"""One difference between a settings file and the server's rules, and the names of places in a file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# Longer values say no more in a sentence.
_SHOWN_CHARACTERS = 60


class Severity(StrEnum):
    """What a difference does."""

    ERROR = "error"
    """The server refuses what such a form sends, ignores it, or does something else than the form says; or the file is incomplete."""
    NOTE = "note"
    """Everything that such a form offers is taken as it is; it offers more or less than ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference.

    Attributes:
        path: place in the file, such as `models.anisora.parameters.fps.options[2]`.
        kind: stable name of what is different, for programs.
        found: what stands there; None also when nothing does, then `kind` begins with `missing`.
        expected: what must stand there, or the limit that it breaks; None where there is no one such value.
        message: a sentence that says what to do.
    """

    path: str
    kind: str
    severity: Severity
    found: Json
    expected: Json
    message: str


def error(path: str, kind: str, message: str, *, found: Json = None, expected: Json = None) -> Difference:
    """A difference that matters."""
    return Difference(path=path, kind=kind, severity=Severity.ERROR, found=found, expected=expected, message=message)


def note(path: str, kind: str, message: str, *, found: Json = None, expected: Json = None) -> Difference:
    """A difference that does no harm."""
    return Difference(path=path, kind=kind, severity=Severity.NOTE, found=found, expected=expected, message=message)


def member(path: str, name: str) -> str:
    """Path of a member of the object at `path`."""
    if not _PLAIN_NAME.fullmatch(name):
        return f"{path}[{shown(name)}]"
    return f"{path}.{name}" if path else name


def item(path: str, number: int) -> str:
    """Path of an entry of the list at `path`."""
    return f"{path}[{number}]"


def shown(value: Json) -> str:
    """A value as a sentence shows it: JSON, ASCII only, cut when it is long."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
