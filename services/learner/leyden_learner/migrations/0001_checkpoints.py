"""Checkpoints with the offsets they are as of, and the rollouts each step trained on."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision, down_revision = "0001", None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "checkpoints",
        sa.Column("policy", sa.Text, primary_key=True),
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("parent", sa.Integer, nullable=False),
        sa.Column("offsets", JSONB, nullable=False),
        sa.Column("metrics", JSONB, nullable=False),
        sa.Column("version_id", sa.Uuid, nullable=False, unique=True),
        sa.Column("version", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "trained_rollouts",
        sa.Column("policy", sa.Text, primary_key=True),
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("rollout_id", sa.Uuid, primary_key=True),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("trained_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.ForeignKeyConstraint(
            ["policy", "run", "step"], ["checkpoints.policy", "checkpoints.run", "checkpoints.step"]
        ),
    )
    op.create_index("trained_rollouts_of_step", "trained_rollouts", ["policy", "run", "step"])
