"""Texts that others send for people to read, as they may be stored and shown."""

from __future__ import annotations

import unicodedata

_KEPT = frozenset("\n\t")
# They turn around what follows, on a terminal beyond the text too. Direction marks and joiners, which scripts need, are none of them.
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def told(text: str, longest: int) -> str:
    """At most so many characters, without control characters and those that reorder text: a database may refuse some (no engine but SQLite
    takes a NUL), and terminals obey others. A call is not refused, or left out of the log, for one."""
    text = text[:longest]
    if text.isprintable():
        # Nearly all are.
        return text
    return "".join(_REPLACEMENT if _must_go(character) else character for character in text)


def is_name(text: str, longest: int) -> bool:
    """Whether it may name something: not empty, not too long, printable."""
    return 0 < len(text) <= longest and text.isprintable()


def _must_go(character: str) -> bool:
    return character not in _KEPT and (character in _REORDERING or unicodedata.category(character) == "Cc")
