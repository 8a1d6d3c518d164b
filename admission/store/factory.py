"""Chooses the store that a URL names."""

from __future__ import annotations

from admission.store.memory import MemoryStore
from admission.store.port import Store
from admission.store.sql import SqlStore


def open_store(url: str) -> Store:
    """The store at `sqlite:///path/to/file.db`, or `memory:` for one that forgets. Nothing is touched before its `open` is awaited.

    Raises:
        ValueError: the URL names neither.
    """
    if url == "memory:":
        return MemoryStore()
    if url.startswith("sqlite:"):
        return SqlStore(url)
    scheme = url.partition(":")[0] or "nothing"
    msg = f"the database URL must be sqlite:///path/to/file.db or memory:, not {scheme!r}"
    raise ValueError(msg)
