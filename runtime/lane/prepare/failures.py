"""Why a preparation stops: a cause for scripts, a sentence for people, and the names of what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Cause(StrEnum):
    """What was wrong."""

    ASKED = "asked"
    """The order: an unknown source, a wrong option."""
    MISSING_SOURCE = "missing_source"
    DAMAGED_SOURCE = "damaged_source"
    """It is no safetensors file, it is cut off, or its header contradicts itself."""
    WRONG_SOURCE = "wrong_source"
    """It is whole, and not what it should be: other tensors, shapes, types, another vocabulary, another hash."""
    BAD_VALUES = "bad_values"
    """Its numbers cannot be used: not finite, beyond the stored type, or unequal where they must be equal."""
    HUB = "hub"
    DISK = "disk"
    BUSY = "busy"
    PREPARED_FOLDER = "prepared_folder"
    """The folder that is there: of something else, or damaged."""


class PrepareError(Exception):
    """Ends a preparation. Nothing that a lane would open was left behind."""

    def __init__(self, cause: Cause, text: str, details: Iterable[str] = ()) -> None:
        """Keeps all three."""
        super().__init__(text)
        self.cause = cause
        self.text = text
        self.details = tuple(details)


_NAMED_AT_MOST = 12


def listed(names: Iterable[str]) -> str:
    """The names in one line, no more than a dozen."""
    every = list(names)
    more = len(every) - _NAMED_AT_MOST
    return ", ".join(every[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
