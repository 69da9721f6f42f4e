"""Postgres for services: an engine with deadlines, migrations that replicas may race, and the outbox.

Each service owns one Postgres schema (``registry``, ``runner``, ``learner``) inside one database.
"""

from leyden_platform.database.engine import DatabaseUnreachable, create_engine, describe, transaction
from leyden_platform.database.migrations import MigrationFailed, migrate, schema_drift
from leyden_platform.database.outbox import create_outbox, enqueue, outbox_table
from leyden_platform.database.relay import Order, OutboxRelay

__all__ = [
    "DatabaseUnreachable",
    "MigrationFailed",
    "Order",
    "OutboxRelay",
    "create_engine",
    "create_outbox",
    "describe",
    "enqueue",
    "migrate",
    "outbox_table",
    "schema_drift",
    "transaction",
]
