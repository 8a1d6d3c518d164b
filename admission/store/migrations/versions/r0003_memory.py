"""Revision 0003: what lanes measured of their memory, which placements are out of use, and what attempts taught."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SORTED_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_LANES = "lane_id, mode, models, device, is_drained"


def upgrade() -> None:
    """Nothing of it is known of what is there: lanes say it when they report next."""
    _make_lanes()
    op.create_table(
        "learned",
        sa.Column("gpu", _SORTED_TEXT, nullable=False),
        sa.Column("model", _SORTED_TEXT, nullable=False),
        sa.Column("placement", _SORTED_TEXT, nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("gpu", "model", "placement", name="pk_learned"),
    )


def _make_lanes() -> None:
    """Copied into a table of the new form, so that its definition is the same as in a new database. They are few."""
    op.rename_table("lanes", "lanes_0002")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE lanes_0002 RENAME CONSTRAINT pk_lanes TO pk_lanes_0002")
    op.create_table(
        "lanes",
        sa.Column("lane_id", _SORTED_TEXT, nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("is_drained", sa.Boolean(), nullable=False),
        sa.Column("memory", sa.Text()),
        sa.Column("retired", sa.Text()),
        sa.PrimaryKeyConstraint("lane_id", name="pk_lanes"),
    )
    op.execute(f"INSERT INTO lanes ({_LANES}) SELECT {_LANES} FROM lanes_0002")  # noqa: S608 - our own text
    op.drop_table("lanes_0002")


def downgrade() -> None:
    """A release does not go back: what the new table holds would be lost."""
    msg = "there is no way back to revision 0002: restore a copy of the database"
    raise NotImplementedError(msg)
