"""The tables as they are now; `migrations/` holds the way there, and a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Dialect, Index, Integer, MetaData, Table, Text
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time to the microsecond. SQLite keeps it as text of one width, so that it sorts; PostgreSQL as timestamptz."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC, because SQLite's text has no offset. Naive times are refused before, in `rows`."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware again: what SQLite returns is naive and means UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


METADATA = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(column_0_label)s"})

# Text has no length anywhere: SQLite would not enforce one and PostgreSQL would, and the doors check lengths already.
# JSON is text that `rows` writes and reads, so that every engine returns the same values.
# Width and height repeat the parameters' (0 when absent) so that the gallery can sort by them.
TASKS = Table(
    "tasks",
    METADATA,
    Column("task_id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime),
    Column("leased_at", UtcDateTime),
    Column("attempt", Integer, nullable=False),
    Column("lost_lanes", Integer, nullable=False),
    Column("lane_mode", Text),
    Column("fallback_reason", Text),
    Column("lane_id", Text),
    Column("boot_id", Text),
    Column("is_withdrawn", Boolean, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("stage", Text, nullable=False),
    Column("stage_detail", Text, nullable=False),
    Column("failure", Text),
    Column("result", Text),
    # Serves the gallery and, as few tasks are unfinished at any time, the restart as well.
    Index("ix_tasks_state_created_at", "state", "created_at"),
    Index("ix_tasks_is_withdrawn", "is_withdrawn"),
    Index("ix_tasks_model_state_created_at", "model", "state", "created_at"),
)

# No foreign key to tasks: the memory record of an attempt may come after its task was deleted, and is kept.
EVENTS = Table(
    "events",
    METADATA,
    # AUTOINCREMENT never gives a number twice; SQLite has it for INTEGER only.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("task_id", Text, index=True),
    Column("event_type", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("value", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lane_id", Text),
    Column("memory", Text),
    sqlite_autoincrement=True,
)

LANES = Table(
    "lanes",
    METADATA,
    Column("lane_id", Text, primary_key=True),
    Column("mode", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("device", Text, nullable=False),
)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("token_sha256", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# Exactly one row, put there by the first migration, so that there is always something to lock.
CONTROLLER = Table("controller", METADATA, Column("epoch", BigInteger, nullable=False))
