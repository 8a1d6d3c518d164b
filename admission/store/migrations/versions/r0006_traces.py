"""Revision 0006: the trace that a task was asked for in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tasks that are there have none. A column without a value costs no row anything: done at once, however many there are."""
    op.add_column("tasks", sa.Column("trace", sa.Text()))


def downgrade() -> None:
    """A release does not go back."""
    msg = "there is no way back to revision 0005: restore a copy of the database"
    raise NotImplementedError(msg)
