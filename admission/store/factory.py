"""Chooses the store that a URL names."""

from __future__ import annotations

from admission.store import postgresql, sqlite
from admission.store.memory import MemoryStore
from admission.store.sql import SqlStore


def open_store(url: str, *, has_writer: bool = False) -> SqlStore | MemoryStore:
    """The store at `sqlite:///path/to/file.db` or `postgresql://…`, or `memory:` for one that forgets.

    Nothing is touched before its `open` is awaited. `has_writer`: see `SqlStore`.

    Raises:
        ValueError: the URL names none of them; the message has no password.
    """
    if url == "memory:":
        return MemoryStore()
    scheme, colon, _ = url.partition(":")
    if colon and scheme.partition("+")[0] in ("sqlite", "postgresql"):
        return SqlStore(url, has_writer=has_writer)
    msg = f"the database URL must be {sqlite.FORM}, {postgresql.FORM} or memory:, not {scheme or 'nothing'!r}"
    raise ValueError(msg)
