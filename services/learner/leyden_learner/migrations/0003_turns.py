"""Whose turn it is among the queues after a step, so that a resumed learner takes what it would have."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """After the steps made before it is nobody's."""
    op.add_column("checkpoints", sa.Column("turns", JSONB, nullable=False, server_default="{}"))
