"""What a process says when its settings are wrong: the variable and what it must be, never its value."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def problems(error: ValidationError) -> list[str]:
    """One sentence for each wrong variable. Values are left out: they may be secrets."""
    found = error.errors(include_input=False, include_url=False)
    return [_sentence("_".join(map(str, one["loc"])).upper(), one["msg"].removeprefix("Value error, ")) for one in found]


def _sentence(name: str, told: str) -> str:
    """What concerns several variables names them itself."""
    return f"WARMLANE_{name}: {told}" if name else told
