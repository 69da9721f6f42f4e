"""Policies, versions, aliases, their audit and the outbox."""

import sqlalchemy as sa
from alembic import op

from leyden_platform.database import create_outbox

revision = "0001"
down_revision = None

_NOW = sa.func.now()


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "policies",
        sa.Column("policy", sa.Text, primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("next_version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
    )
    op.create_table(
        "versions",
        sa.Column("policy", sa.Text, sa.ForeignKey("policies.policy"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version_id", sa.Uuid, nullable=False, unique=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("artifact", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("tokenizer_digest", sa.Text, nullable=False),
        sa.Column("chat_template_digest", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("parent", sa.Integer, nullable=True),
        sa.Column("step", sa.BigInteger, nullable=True),
        sa.Column("prompt_version", sa.Text, nullable=True),
        sa.Column("sampling_defaults", sa.JSON, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.ForeignKeyConstraint(["policy", "parent"], ["versions.policy", "versions.version"]),
    )
    op.create_table(
        "alias_moves",
        sa.Column("move_id", sa.BigInteger, primary_key=True, autoincrement=True),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("previous", sa.Integer, nullable=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False, server_default=_NOW),
        sa.ForeignKeyConstraint(["policy", "version"], ["versions.policy", "versions.version"]),
    )
    op.create_index("alias_moves_by_policy", "alias_moves", ["policy", "move_id"])
    op.create_table(
        "aliases",
        sa.Column("policy", sa.Text, sa.ForeignKey("policies.policy"), primary_key=True),
        sa.Column("alias", sa.Text, primary_key=True),
        sa.Column("move_id", sa.BigInteger, sa.ForeignKey("alias_moves.move_id"), nullable=False),
    )
    create_outbox(op)
