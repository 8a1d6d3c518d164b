"""Reads a settings file: any JSON, strictly, with the keys that stand in it twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from command_line.failures import CommandError
from command_line.settings.differences import Json, shown

# A settings file has some kilobytes.
_MAX_BYTES = 4 * 1024 * 1024


def read_settings(path: Path) -> tuple[Json, tuple[str, ...]]:
    """The file's content, and the keys that an object in it has twice (of which JSON readers take the last).

    Raises:
        CommandError: it cannot be read, or is not JSON.
    """
    repeated: list[str] = []

    def object_of(pairs: list[tuple[str, Json]]) -> Json:
        made: dict[str, Json] = {}
        for name, value in pairs:
            if name in made:
                repeated.append(name)
            made[name] = value
        return made

    try:
        # Some editors put a byte order mark first.
        text = _content(path).decode("utf-8-sig")
        document = cast("Json", json.loads(text, object_pairs_hook=object_of, parse_constant=_refuse_constant))
    except UnicodeDecodeError as wrong:
        raise _unreadable(path, "it is not UTF-8 text") from wrong
    except RecursionError as wrong:
        raise _unreadable(path, "it is not JSON that can be read: it is nested too deeply") from wrong
    except ValueError as wrong:
        raise _unreadable(path, f"it is not JSON: {wrong}") from wrong
    return document, tuple(dict.fromkeys(repeated))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as wrong:
        raise _unreadable(path, wrong.strerror or "it cannot be opened") from wrong
    if len(content) > _MAX_BYTES:
        raise _unreadable(path, f"it is over {_MAX_BYTES // 1024 // 1024} MiB; a settings file has some kilobytes")
    return content


def _refuse_constant(name: str) -> Json:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


def _unreadable(path: Path, why: str) -> CommandError:
    return CommandError(f"{shown(str(path))[1:-1]}: {why}.")
