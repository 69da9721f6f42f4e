"""The share of its policy's traffic that an alias takes as a canary."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Every move says which share goes with it; the moves made before had none."""
    op.add_column("alias_moves", sa.Column("weight", sa.Double, nullable=True))
