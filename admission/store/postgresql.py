"""PostgreSQL: one writer's connection and a few readers', each with limits on how long it may wait."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from admission.store import rows

FORM = "postgresql://user:password@host:5432/database"

_DRIVER = "postgresql+psycopg"
_CONNECT_TIMEOUT_S = 5
# A statement of ours takes milliseconds; this bounds what a sick server can hold up.
_STATEMENT_TIMEOUT_S = 10.0
# A migration makes indexes over every task there is.
_MIGRATION_TIMEOUT_S = 30 * 60
# A server that vanished without a word is noticed after this long.
_SILENCE_MS = 10_000
# Two programs that open the same database at once migrate it one after the other; any number that nobody else uses.
_MIGRATION_LOCK = 0x5741524D


class PostgresqlBackend:
    """A database of a PostgreSQL server at a URL."""

    # Locks the row, even against a writer of the same epoch: our own transaction of before, whose connection was lost while it committed.
    # One statement, because what another one read would be older than the lock.
    guard = "UPDATE controller SET last_sequence = last_sequence + %s RETURNING epoch, last_sequence"

    def __init__(self, url: URL, *, lock_timeout_s: float) -> None:
        """Touches nothing.

        Args:
            url: `postgresql://…`; what stands behind `?` goes to the driver.
            lock_timeout_s: how long a transaction waits for one of another process.

        Raises:
            ValueError: the URL names no database.
        """
        if url.drivername not in ("postgresql", _DRIVER) or not url.database:
            msg = f"{url.render_as_string()!r} does not name a PostgreSQL database; write {FORM}"
            raise ValueError(msg)
        self._url = url.set(drivername=_DRIVER)
        self._lock_timeout_s = lock_timeout_s

    def prepare_place(self) -> None:
        """The database must exist already."""

    def engine(self, *, read_only: bool) -> Engine:
        """Each connection belongs to one thread."""
        engine = create_engine(
            self._url,
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "tcp_user_timeout": _SILENCE_MS,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "application_name": "warmlane-admission",
            },
            poolclass=NullPool,
            # A page and its total are of one state; a writer sees what was committed before it got the lock.
            isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
            # Parameters hold prompts: they must not get into messages and logs.
            hide_parameters=True,
        )
        settings = {
            "statement_timeout": _milliseconds(_STATEMENT_TIMEOUT_S),
            "lock_timeout": _milliseconds(self._lock_timeout_s),
            "idle_in_transaction_session_timeout": _milliseconds(_STATEMENT_TIMEOUT_S),
            "timezone": "UTC",
            "default_transaction_read_only": "on" if read_only else "off",
        }
        event.listen(engine, "connect", lambda connection, entry: _configure(connection, entry, settings))
        return engine

    def before_migration(self, connection: Connection) -> None:
        """Waits for the other program that migrates, if there is one."""
        limit = _milliseconds(_MIGRATION_TIMEOUT_S)
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET LOCAL {name} = {limit}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")

    def native(self, sql: str) -> str:
        """With the driver's placeholders."""
        return sql.replace("?", "%s")

    def moment(self, moment: datetime) -> datetime:
        """An aware time, as it is."""
        return rows.utc(moment)

    def is_lost(self, connection: Connection) -> bool:
        """The driver knows."""
        return bool(getattr(connection.connection.driver_connection, "closed", True))


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry, settings: dict[str, str]) -> None:
    cursor = connection.cursor()
    try:
        names = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
        cursor.execute(f"SELECT {names}")
        connection.commit()
    finally:
        cursor.close()
