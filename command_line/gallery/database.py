"""The SQLite file of an existing gallery, read without changing anything in it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

TABLE = "tasks"
NEEDED = ("id", "status", "model", "created_at")
"""Columns without which no row can be taken over."""
COLUMNS = (
    *NEEDED, "type", "mode", "prompt", "negative_prompt", "parameters", "width", "height", "seed", "result_path", "preview_path",
    "error_msg", "lane_mode", "fallback_reason", "updated_at",
)  # fmt: skip
"""Every column that is read; the way of a task (progress, stage, stage_detail) says nothing any more once it has ended."""

_BATCH = 200
_LOCK_WAIT_S = 10.0
_BEFORE_ALL = -(2**63)

Row = Mapping[str, object]
"""A row by its column names; a column that the table lacks is absent."""


class UnusableGalleryError(Exception):
    """The file cannot be read as a gallery; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """An open gallery.

    Attributes:
        total: its rows.
        missing: columns of COLUMNS that its table lacks.
        has_numbers: its rows have SQLite's own numbers; a view's and those of a table made WITHOUT ROWID have none.
    """

    total: int
    missing: tuple[str, ...]
    connection: sqlite3.Connection
    has_numbers: bool

    def rows(self) -> Iterator[Row]:
        """Every row, as it is. Raises UnusableGalleryError where the file turns out to be damaged.

        Read some at a time, so that the program that the file belongs to can write between: an import may take hours.
        """
        names = [name for name in COLUMNS if name not in self.missing]
        columns = ", ".join(_quoted(name) for name in names)
        if not self.has_numbers:
            with _told():
                every = self.connection.execute(f"SELECT {columns} FROM {_quoted(TABLE)}").fetchall()  # noqa: S608 - our own names
            yield from (dict(zip(names, values, strict=True)) for values in every)
            return
        page = f"SELECT rowid, {columns} FROM {_quoted(TABLE)} WHERE rowid > ? ORDER BY rowid LIMIT {_BATCH}"  # noqa: S608 - our own names
        after = _BEFORE_ALL
        while True:
            with _told():
                batch = self.connection.execute(page, (after,)).fetchall()
            if not batch:
                return
            for number, *values in batch:
                after = number
                yield dict(zip(names, values, strict=True))


@contextmanager
def open_gallery(path: Path) -> Iterator[Gallery]:
    """The gallery in this file. Raises UnusableGalleryError."""
    if not path.is_file():
        msg = f"{path} is not there, or no file."
        raise UnusableGalleryError(msg)
    with closing(_connected(path)) as connection:
        yield _looked_at(connection)


def _connected(path: Path) -> sqlite3.Connection:
    """Read-only, so that the file stays as it is even when the program that it belongs to is running."""
    address = path.resolve().as_uri()
    with _told():
        try:
            return _opened(f"{address}?mode=ro")
        except sqlite3.OperationalError:
            # A file in a folder that cannot be written, left in write-ahead mode: it can be read as it stands, if nothing waits beside it.
            if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal")):
                raise
        return _opened(f"{address}?immutable=1")


def _opened(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_LOCK_WAIT_S)
    # SQLite promises no encoding: a text that is none does not end everything, it names its row.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _looked_at(connection: sqlite3.Connection) -> Gallery:
    with _told():
        there = {str(row[1]).lower() for row in connection.execute(f"PRAGMA table_info({_quoted(TABLE)})")}
    if not there:
        msg = f"it has no table {TABLE}: this is not the database of a gallery."
        raise UnusableGalleryError(msg)
    lacking = [name for name in NEEDED if name not in there]
    if lacking:
        msg = f"its table {TABLE} lacks {', '.join(lacking)}: nothing can be taken over without."
        raise UnusableGalleryError(msg)
    with _told():
        [(total,)] = connection.execute(f"SELECT COUNT(*) FROM {_quoted(TABLE)}").fetchall()  # noqa: S608 - our own name
    return Gallery(
        total=total,
        missing=tuple(name for name in COLUMNS if name not in there),
        connection=connection,
        has_numbers=_has_numbers(connection),
    )


def _has_numbers(connection: sqlite3.Connection) -> bool:
    try:
        found = connection.execute(f"SELECT rowid FROM {_quoted(TABLE)} LIMIT 1").fetchall()  # noqa: S608 - our own name
    except sqlite3.OperationalError:
        return False
    return found != [(None,)]


def _quoted(name: str) -> str:
    return f'"{name}"'


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        msg = f"SQLite cannot read it ({error}). Copy it, with the files beside it that begin with its name, and try the copy."
        raise UnusableGalleryError(msg) from error
