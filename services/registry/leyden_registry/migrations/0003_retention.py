"""Pins, retired versions, and the audit of both."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_NOW = sa.func.now()


def upgrade() -> None:
    """Every version that was published until now is there still, and nobody has pinned one."""
    op.add_column("versions", sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "version_changes",
        sa.Column("change_id", sa.BigInteger, primary_key=True, autoincrement=True),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("change", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=True),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.ForeignKeyConstraint(["policy", "version"], ["versions.policy", "versions.version"]),
    )
    op.create_index("version_changes_by_policy", "version_changes", ["policy", "change_id"])
    op.create_table(
        "pins",
        sa.Column("policy", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.Text, primary_key=True),
        sa.Column("change_id", sa.BigInteger, sa.ForeignKey("version_changes.change_id"), nullable=False),
        sa.ForeignKeyConstraint(["policy", "version"], ["versions.policy", "versions.version"]),
    )
