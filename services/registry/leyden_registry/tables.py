"""The registry's tables, as its migrations leave them (a test compares the two)."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
)

from leyden_platform.database import outbox_table

SCHEMA = "registry"

metadata = MetaData(schema=SCHEMA)

policies = Table(
    "policies",
    metadata,
    Column("policy", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("next_version", Integer, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
"""One row a policy; locked by whatever changes the policy, which orders versions, moves and announcements."""

versions = Table(
    "versions",
    metadata,
    Column("policy", Text, ForeignKey("registry.policies.policy"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("version_id", Uuid, nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("artifact", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("tokenizer_digest", Text, nullable=False),
    Column("chat_template_digest", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("parent", Integer, nullable=True),
    Column("step", BigInteger, nullable=True),
    Column("prompt_version", Text, nullable=True),
    Column("sampling_defaults", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("published_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("retired_at", DateTime(timezone=True), nullable=True),
    ForeignKeyConstraint(["policy", "parent"], ["registry.versions.policy", "registry.versions.version"]),
)
"""Immutable but for ``retired_at``: from then on the weights may be gone.

JSON rather than JSONB, which would turn a metric of 1e300 into an integer.
"""

alias_moves = Table(
    "alias_moves",
    metadata,
    Column("move_id", BigInteger, primary_key=True, autoincrement=True),
    Column("policy", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("previous", Integer, nullable=True),
    Column("version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("weight", Double, nullable=True),
    ForeignKeyConstraint(["policy", "version"], ["registry.versions.policy", "registry.versions.version"]),
    Index("alias_moves_by_policy", "policy", "move_id"),
)
"""The audit: who moved which alias, when, why, and with which share of traffic. Rows are never changed."""

aliases = Table(
    "aliases",
    metadata,
    Column("policy", Text, ForeignKey("registry.policies.policy"), primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("move_id", BigInteger, ForeignKey("registry.alias_moves.move_id"), nullable=False),
)
"""Where each alias is now: its latest move."""

version_changes = Table(
    "version_changes",
    metadata,
    Column("change_id", BigInteger, primary_key=True, autoincrement=True),
    Column("policy", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("change", Text, nullable=False),
    Column("holder", Text, nullable=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    ForeignKeyConstraint(["policy", "version"], ["registry.versions.policy", "registry.versions.version"]),
    Index("version_changes_by_policy", "policy", "change_id"),
)
"""The audit of what keeps weights or lets them go: ``pinned``, ``unpinned``, ``retired``."""

pins = Table(
    "pins",
    metadata,
    Column("policy", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text, primary_key=True),
    Column("change_id", BigInteger, ForeignKey("registry.version_changes.change_id"), nullable=False),
    ForeignKeyConstraint(["policy", "version"], ["registry.versions.policy", "registry.versions.version"]),
)
"""Who needs a version for as long as the row is there."""

outbox = outbox_table(metadata)
