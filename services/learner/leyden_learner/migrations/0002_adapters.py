"""Checkpoints that are adapters, and the version that they, or the run's full weights, began with."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """The steps made before hold full weights; which version their base was is not known any more."""
    op.add_column("checkpoints", sa.Column("kind", sa.Text, nullable=False, server_default="full"))
    op.add_column("checkpoints", sa.Column("base_version", sa.Integer, nullable=True))
