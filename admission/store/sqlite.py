"""SQLite: one file, WAL with synchronous=FULL, so that a commit is one fsync of the log."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from sqlite3 import OperationalError, register_adapter
from types import NoneType

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from admission.store import rows

FORM = "sqlite:///path/to/file.db"

# KiB of pages that a connection keeps; the upper levels of every index of a million tasks fit.
_CACHE_KIB = 16 * 1024
# Statements that the driver keeps compiled: those of a write come in several sizes.
_STATEMENTS = 256
# The driver takes text and whole numbers as they are, but for every None and every truth value it asks the value's class, and then a
# protocol, how it wants to be stored: a fifth of the time that a task's row takes (Python 3.11). So it is told.
register_adapter(NoneType, lambda none: none)
register_adapter(bool, int)

# For the change of a new file's journal mode, while other processes open it too.
_MODE_PATIENCE_S = 5.0
_MODE_PAUSE_S = 0.02


class SqliteBackend:
    """A SQLite file at a URL."""

    # A write transaction has the whole database, and an event's row is all that has to be written to draw its number.
    guard = "SELECT epoch, MAX(last_sequence, COALESCE((SELECT MAX(sequence) FROM events), 0)) + ? FROM controller"

    def __init__(self, url: URL, *, busy_timeout_s: float) -> None:
        """Touches nothing.

        Args:
            url: `sqlite:///path`, the path relative to the working folder or with a fourth slash absolute.
            busy_timeout_s: how long a transaction waits for one of another process.

        Raises:
            ValueError: the URL names no file.
        """
        path = url.database
        if url.drivername != "sqlite" or url.host or url.query or not path or path.startswith((":", "file:")):
            msg = f"{url.render_as_string()!r} does not name a SQLite file; write {FORM}"
            raise ValueError(msg)
        self._url = url
        self._path = Path(path)
        self._busy_timeout_s = busy_timeout_s

    def prepare_place(self) -> None:
        """Makes folder and file, the file for its owner alone; SQLite gives its side files the same mode."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def engine(self, *, read_only: bool) -> Engine:
        """Each connection belongs to one thread."""
        engine = create_engine(
            self._url,
            connect_args={"timeout": self._busy_timeout_s, "cached_statements": _STATEMENTS},
            poolclass=NullPool,
            # Parameters hold prompts: they must not get into messages and logs.
            hide_parameters=True,
        )
        event.listen(engine, "connect", _configure_reader if read_only else _configure_writer)
        # A writer that took the lock only at its first change could fail in the middle, after it had read the epoch.
        begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        event.listen(engine, "begin", lambda connection: driver_begin(connection, begin))
        return engine

    def before_migration(self, connection: Connection) -> None:
        """The transaction has the whole file already."""

    def native(self, sql: str) -> str:
        """As it is."""
        return sql

    def moment(self, moment: datetime) -> str:
        """UTC as text of one width, as SQLAlchemy writes it."""
        return rows.utc(moment).isoformat(" ", "microseconds")[:26]

    def is_lost(self, connection: Connection) -> bool:
        """A file does not go away; whatever failed was rolled back."""
        return False


def driver_begin(connection: Connection, begin: str) -> None:
    """Begins past SQLAlchemy's statement handling, which would cost more than the statement."""
    connection.connection.cursor().execute(begin)


def _configure_writer(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The journal mode is a property of the file and stays; the others are of the connection.
    until_s = time.monotonic() + _MODE_PATIENCE_S
    while True:
        try:
            _configure(connection, "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
        except OperationalError:
            # Another process opens the new file at this moment: for the change of mode SQLite says so without waiting.
            if time.monotonic() >= until_s:
                raise
            # In the store's own thread: connections are made there.
            time.sleep(_MODE_PAUSE_S)
        else:
            return


def _configure_reader(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    _configure(connection, "synchronous = FULL", "foreign_keys = ON", "query_only = ON")


def _configure(connection: DBAPIConnection, *pragmas: str) -> None:
    # Without this the driver begins transactions by itself, deferred and for some statements only.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        for pragma in (*pragmas, f"cache_size = -{_CACHE_KIB}"):
            cursor.execute(f"PRAGMA {pragma}")
    finally:
        cursor.close()
