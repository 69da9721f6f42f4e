"""The runner's tables in Postgres (schema ``runner``)."""

from sqlalchemy import Column, DateTime, Float, ForeignKey, Index, Integer, MetaData, Table, Text, Uuid

from leyden_platform.database import outbox_table

SCHEMA = "runner"
METADATA = MetaData(schema=SCHEMA)

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("rollout_id", Uuid, primary_key=True),
    Column("group_id", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False, comment="Fences: only the newest attempt may conclude."),
    Column("failures", Integer, nullable=False, comment="Attempts that failed and count against the limit."),
    Column("owner", Text, nullable=True, comment="Runner that holds the lease."),
    Column(
        "available_at",
        DateTime(timezone=True),
        nullable=False,
        comment="When anyone may take the next attempt: the lease's end, or the end of a pause.",
    ),
    Column("outcome", Text, nullable=True, comment="Set once, when the rollout is over."),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=True),
    Index("rollouts_finished_at", "finished_at"),
)
ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column(
        "rollout_id",
        Uuid,
        ForeignKey(f"{SCHEMA}.rollouts.rollout_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=True),
    Column("outcome", Text, nullable=True),
    Column("error", Text, nullable=True),
    Column("duration_s", Float, nullable=True),
)
OUTBOX = outbox_table(METADATA)
