"""Revision 0001: tasks, events, lanes, sessions and the controller epoch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes every table."""
    _make_tasks()
    _make_events()
    op.create_table(
        "lanes",
        sa.Column("lane_id", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("lane_id", name="pk_lanes"),
    )
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_sessions"),
    )
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    controller = op.create_table("controller", sa.Column("epoch", sa.BigInteger(), nullable=False))
    op.bulk_insert(controller, [{"epoch": 0}])


def _make_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
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
    op.create_index("ix_tasks_state_created_at", "tasks", ["state", "created_at"])
    op.create_index("ix_tasks_is_withdrawn", "tasks", ["is_withdrawn"])
    op.create_index("ix_tasks_model_state_created_at", "tasks", ["model", "state", "created_at"])


def _make_events() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("task_id", sa.Text()),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lane_id", sa.Text()),
        sa.Column("memory", sa.Text()),
        sa.PrimaryKeyConstraint("sequence", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_task_id", "events", ["task_id"])


def downgrade() -> None:
    """Nothing lies before the first schema."""
    msg = "revision 0001 is the first: delete the database instead"
    raise NotImplementedError(msg)
