"""Revision 0002: idempotency keys, policies, drained lanes, kept counts and input keys, event numbers of the controller, large indexes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ENDED = "state IN ('cancelled', 'done', 'failed')"
_RARE = "event_type NOT IN ('accepted', 'attempt_ended', 'attempt_started', 'ended', 'memory_record')"
_UNFINISHED = "state IN ('leased', 'queued')"
# How many tasks are read at a time while their input keys are written down.
_CHUNK = 1000
# What is sorted by sorts by code point on every engine.
_SORTED_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# What changed or fills the new tables is copied into a table of the new form; the large indexes are made after that, in one go each.
_TASKS = (
    "task_id, owner, model, mode, parameters, width, height, tokens, created_at, state, updated_at, queued_at, leased_at, attempt, "
    "lost_lanes, lane_mode, fallback_reason, lane_id, boot_id, is_withdrawn, progress, stage, stage_detail, failure, result"
)
_EVENTS = "sequence, task_id, event_type, created_at, value, reason, attempt, lane_id, memory"


def upgrade() -> None:
    """Makes the new tables and works out what they hold of the tasks and events that are there."""
    _keep_controller()
    _put_aside("tasks", "ix_tasks_state_created_at", "ix_tasks_is_withdrawn", "ix_tasks_model_state_created_at")
    _make_tasks()
    _take_back("tasks", f"INSERT INTO tasks ({_TASKS}, fingerprint) SELECT {_TASKS}, '' FROM tasks_0001")  # noqa: S608 - our own text
    _index_tasks()
    _put_aside("events", "ix_events_task_id")
    _make_events()
    is_loose = "NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.task_id = events_0001.task_id)"
    _take_back("events", f"INSERT INTO events ({_EVENTS}, is_loose) SELECT {_EVENTS}, {is_loose} FROM events_0001")  # noqa: S608 - our own text
    _index_events()
    _make_lanes()
    _make_policies()
    _make_counts()
    _make_inputs()


def _put_aside(table: str, *indexes: str) -> None:
    for index in indexes:
        op.drop_index(index, table_name=table)
    op.rename_table(table, f"{table}_0001")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE {table}_0001 RENAME CONSTRAINT pk_{table} TO pk_{table}_0001")


def _take_back(table: str, copy: str) -> None:
    op.execute(copy)
    op.drop_table(f"{table}_0001")


def _keep_controller() -> None:
    """Numbers go on behind the highest that was ever given, though its event may be gone."""
    connection = op.get_bind()
    highest = "SELECT COALESCE(MAX(sequence), 0) FROM events"
    if connection.dialect.name == "sqlite":
        highest = f"SELECT MAX(({highest}), COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0))"  # noqa: S608 - our own text
    epoch = connection.execute(sa.text("SELECT epoch FROM controller")).scalar_one()
    last_sequence = connection.execute(sa.text(highest)).scalar_one()
    op.drop_table("controller")
    controller = op.create_table(
        "controller",
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(controller, [{"epoch": epoch, "last_sequence": last_sequence}])


def _make_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("task_id", _SORTED_TEXT, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text()),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("model", _SORTED_TEXT, nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True)),
        sa.Column("leased_at", sa.DateTime(timezone=True)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lost_lanes", sa.Integer(), nullable=False),
        sa.Column("lane_mode", sa.Text()),
        sa.Column("fallback_reason", sa.Text()),
        sa.Column("lane_id", sa.Text()),
        sa.Column("boot_id", sa.Text()),
        sa.Column("is_withdrawn", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("stage_detail", sa.Text(), nullable=False),
        sa.Column("failure", sa.Text()),
        sa.Column("result", sa.Text()),
        sa.PrimaryKeyConstraint("task_id", name="pk_tasks"),
    )


def _index_tasks() -> None:
    _partial("ix_tasks_owner_request_id", "tasks", ["owner", "request_id"], "request_id IS NOT NULL", unique=True)
    _partial("ix_tasks_unfinished", "tasks", ["state", "model"], f"{_UNFINISHED} OR is_withdrawn")
    _partial("ix_tasks_ended_updated_at", "tasks", ["state", "updated_at", "task_id"], _ENDED)
    for order in ("created_at", "width", "height"):
        _partial(f"ix_tasks_ended_{order}", "tasks", ["state", sa.text(f"{order} DESC"), "task_id"], _ENDED)
        _partial(f"ix_tasks_ended_model_{order}", "tasks", ["state", "model", sa.text(f"{order} DESC"), "task_id"], _ENDED)
    _partial("ix_tasks_ended_model", "tasks", ["state", sa.text("model DESC"), "task_id"], _ENDED)


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("task_id", sa.Text()),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lane_id", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("memory", sa.Text()),
        sa.Column("is_loose", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_events"),
    )


def _index_events() -> None:
    op.create_index("ix_events_task_id", "events", ["task_id", "sequence"])
    _partial("ix_events_lane_id", "events", ["lane_id", "sequence"], "lane_id IS NOT NULL")
    _partial("ix_events_event_type", "events", ["event_type", "sequence"], _RARE)
    _partial("ix_events_loose", "events", ["created_at", "sequence"], "is_loose")


def _partial(name: str, table: str, columns: list[str | sa.TextClause], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _make_lanes() -> None:
    _put_aside("lanes")
    op.create_table(
        "lanes",
        sa.Column("lane_id", _SORTED_TEXT, nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("is_drained", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("lane_id", name="pk_lanes"),
    )
    columns = "lane_id, mode, models, device"
    _take_back("lanes", f"INSERT INTO lanes ({columns}, is_drained) SELECT {columns}, false FROM lanes_0001")  # noqa: S608 - our own text


def _make_policies() -> None:
    op.create_table(
        "policies",
        sa.Column("model", _SORTED_TEXT, nullable=False),
        sa.Column("is_fallback_manual", sa.Boolean(), nullable=False),
        sa.Column("quota_denied_until", sa.DateTime(timezone=True)),
        sa.Column("quota_reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_policies"),
    )


def _make_counts() -> None:
    op.create_table(
        "task_counts",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tasks", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", "state", name="pk_task_counts"),
    )
    ended = f"SELECT model, state, COUNT(*) FROM tasks WHERE {_ENDED} GROUP BY model, state"  # noqa: S608 - our own text
    op.execute(f"INSERT INTO task_counts (model, state, tasks) {ended}")


def _make_inputs() -> None:
    inputs = op.create_table(
        "task_inputs",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", "task_id", name="pk_task_inputs"),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    page = sa.text("SELECT task_id, parameters FROM tasks WHERE task_id > :after ORDER BY task_id LIMIT :limit")
    after = ""
    while found := connection.execute(page, {"after": after, "limit": _CHUNK}).all():
        after = found[-1].task_id
        new = [{"task_id": task_id, "key": key} for task_id, text in found for key in sorted(set(_input_keys(json.loads(text))))]
        if new:
            connection.execute(inputs.insert(), new)
    op.create_index("ix_task_inputs_task_id", "task_inputs", ["task_id"])


def _input_keys(value: object) -> Iterator[str]:
    """As it was when this revision was made: every text under the name "key" that begins with "inputs/"."""
    if isinstance(value, Mapping):
        key = value.get("key")
        if isinstance(key, str) and key.startswith("inputs/"):
            yield key
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _input_keys(inner)


def downgrade() -> None:
    """A release does not go back: what the new tables hold would be lost."""
    msg = "there is no way back to revision 0001: restore a copy of the database"
    raise NotImplementedError(msg)
