"""The ledger of rollouts and attempts, and the outbox of what happened to them."""

import sqlalchemy as sa
from alembic import op

from leyden_platform.database import create_outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "rollouts",
        sa.Column("rollout_id", sa.Uuid, primary_key=True),
        sa.Column("group_id", sa.Uuid, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("available_at", moment, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("finished_at", moment),
    )
    op.create_index("rollouts_finished_at", "rollouts", ["finished_at"])
    op.create_table(
        "attempts",
        sa.Column(
            "rollout_id", sa.Uuid, sa.ForeignKey("rollouts.rollout_id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("finished_at", moment),
        sa.Column("outcome", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("duration_s", sa.Float),
    )
    create_outbox(op)


def downgrade() -> None:
    """Drop the tables."""
    for table in ("outbox", "attempts", "rollouts"):
        op.drop_table(table)
