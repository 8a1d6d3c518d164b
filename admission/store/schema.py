"""The tables as they are now; `migrations/` holds the way there, and a test compares the two."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Dialect, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.types import TypeDecorator

from admission.store import rows


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time to the microsecond. SQLite keeps it as text of one width, so that it sorts; PostgreSQL as timestamptz."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC, because SQLite's text has no offset. Naive times are refused before, in `rows`."""
        return None if value is None else value.astimezone(UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """Aware again: SQLite's text means UTC. In one step, since a restart reads four of them per unfinished task."""
        return _of_text if dialect.name == "sqlite" else _of_aware


def _of_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(f"{value}+00:00")


def _of_aware(value: datetime | None) -> datetime | None:
    return None if value is None else value.astimezone(UTC)


METADATA = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(column_0_label)s"})

# Text has no length anywhere: SQLite would not enforce one and PostgreSQL would, and the doors check lengths already.
# What is sorted by sorts by code point, as SQLite and Python do it.
SORTED_TEXT = Text().with_variant(Text(collation="C"), "postgresql")


def _one_of(states: tuple[str, ...]) -> str:
    return "state IN ({})".format(", ".join(f"'{state}'" for state in states))


# A query that repeats the condition of a partial index word for word may use it. Unfinished tasks are few and change often, ended
# ones are many and rest: with the large indexes on the ended only, accepting and rendering a task touches none of them.
IS_UNFINISHED = _one_of(rows.UNFINISHED)
IS_ENDED = _one_of(rows.ENDED)
MUST_BE_RESTORED = f"{IS_UNFINISHED} OR is_withdrawn"


# Those of every task are found soon enough by passing over the events in their order; an index is for the others, which lie far apart.
COMMON_EVENTS = ("accepted", "attempt_ended", "attempt_started", "ended", "memory_record")
IS_RARE = "event_type NOT IN ({})".format(", ".join(f"'{name}'" for name in COMMON_EVENTS))


def _partial(name: str, *columns: object, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))  # type: ignore[arg-type]


# JSON is text that `rows` writes and reads, so that every engine returns the same values.
# Width and height repeat the parameters' (0 when absent) so that the gallery can sort by them.
TASKS = Table(
    "tasks",
    METADATA,
    Column("task_id", SORTED_TEXT, primary_key=True),
    Column("owner", Text, nullable=False),
    # NULL: none, so that the index below holds those that have one only.
    Column("request_id", Text),
    Column("fingerprint", Text, nullable=False),
    Column("model", SORTED_TEXT, nullable=False),
    Column("mode", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # NULL: it was asked for without a trace.
    Column("trace", Text),
    Column("state", Text, nullable=False),
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
    _partial("ix_tasks_owner_request_id", "owner", "request_id", where="request_id IS NOT NULL", unique=True),
    _partial("ix_tasks_unfinished", "state", "model", where=MUST_BE_RESTORED),
    _partial("ix_tasks_ended_updated_at", "state", "updated_at", "task_id", where=IS_ENDED),
    # The gallery: one per order, with a filter by model and without; each holds all that finding a page needs.
    _partial("ix_tasks_ended_created_at", "state", text("created_at DESC"), "task_id", where=IS_ENDED),
    _partial("ix_tasks_ended_width", "state", text("width DESC"), "task_id", where=IS_ENDED),
    _partial("ix_tasks_ended_height", "state", text("height DESC"), "task_id", where=IS_ENDED),
    _partial("ix_tasks_ended_model", "state", text("model DESC"), "task_id", where=IS_ENDED),
    _partial("ix_tasks_ended_model_created_at", "state", "model", text("created_at DESC"), "task_id", where=IS_ENDED),
    _partial("ix_tasks_ended_model_width", "state", "model", text("width DESC"), "task_id", where=IS_ENDED),
    _partial("ix_tasks_ended_model_height", "state", "model", text("height DESC"), "task_id", where=IS_ENDED),
    # One owner's: few enough to be counted, and sorted where the order is another one, without a look at the tasks themselves.
    _partial("ix_tasks_ended_owner", "owner", "state", text("created_at DESC"), "task_id", "model", "width", "height", where=IS_ENDED),
)

# How many ended tasks there are, kept by every write that ends or removes one; a row may say 0. The unfinished are few: they are counted
# when that is asked, so that accepting a task has a page less to write.
TASK_COUNTS = Table(
    "task_counts",
    METADATA,
    Column("model", Text, primary_key=True),
    Column("state", Text, primary_key=True),
    Column("tasks", BigInteger, nullable=False),
)

# Which input images a task needs; written with the task, gone with it.
TASK_INPUTS = Table(
    "task_inputs",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("task_id", Text, primary_key=True, index=True),
    # The key alone is the row.
    sqlite_with_rowid=False,
)

# No foreign key to tasks: the memory record of an attempt may come after its task was deleted, and is kept.
EVENTS = Table(
    "events",
    METADATA,
    # Numbered by `BatchWriter.guard`.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("task_id", Text),
    Column("event_type", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("value", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("lane_id", Text),
    Column("model", Text),
    Column("memory", Text),
    # It named no stored task when it was written.
    Column("is_loose", Boolean, nullable=False),
    Index("ix_events_task_id", "task_id", "sequence"),
    _partial("ix_events_lane_id", "lane_id", "sequence", where="lane_id IS NOT NULL"),
    _partial("ix_events_event_type", "event_type", "sequence", where=IS_RARE),
    _partial("ix_events_loose", "created_at", "sequence", where="is_loose"),
)

LANES = Table(
    "lanes",
    METADATA,
    Column("lane_id", SORTED_TEXT, primary_key=True),
    Column("mode", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("is_drained", Boolean, nullable=False),
    # What the lane measured, see `fits`; NULL: it never said.
    Column("memory", Text),
    # Boot and placements; NULL: none.
    Column("retired", Text),
)

# Which GPUs and placements were measured, and what that showed. Some tens of rows.
LEARNED = Table(
    "learned",
    METADATA,
    Column("gpu", SORTED_TEXT, primary_key=True),
    Column("model", SORTED_TEXT, primary_key=True),
    Column("placement", SORTED_TEXT, primary_key=True),
    Column("figures", Text, nullable=False),
)

POLICIES = Table(
    "policies",
    METADATA,
    Column("model", SORTED_TEXT, primary_key=True),
    Column("is_fallback_manual", Boolean, nullable=False),
    Column("quota_denied_until", UtcDateTime),
    Column("quota_reason", Text, nullable=False),
)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("token_sha256", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

ADMIN_SESSIONS = Table(
    "admin_sessions",
    METADATA,
    Column("token_sha256", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_activity_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

AUDIT = Table(
    "audit",
    METADATA,
    # Numbered by the engine, which gives no number twice, whatever is removed.
    Column("entry_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("called_at", UtcDateTime, nullable=False, index=True),
    Column("address", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("success", Boolean, nullable=False),
    Index("ix_audit_success", "success", "entry_id"),
    sqlite_autoincrement=True,
)

# Exactly one row, put there by the first migration, so that there is always something to lock.
# last_sequence: no event number up to it is given again; kept when events are removed, and by PostgreSQL at every write.
CONTROLLER = Table("controller", METADATA, Column("epoch", BigInteger, nullable=False), Column("last_sequence", BigInteger, nullable=False))
