"""The transactional outbox: messages written beside the rows they tell about, in one transaction.

Ids count up in the order of insertion. Transactions that must be announced in order take a common row lock
before they enqueue; then a later id is also a later commit.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    insert,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from leyden_platform.messaging.publisher import cloud_event_headers
from leyden_schemas import Message, encode

OUTBOX = "outbox"


def outbox_columns() -> list[Column[Any]]:
    """The columns of an outbox. ``refused`` is why the broker will never take the row; such rows are kept."""
    return [
        Column("id", BigInteger, primary_key=True, autoincrement=True),
        Column("topic", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("value", LargeBinary, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Column("refused", Text, nullable=True),
    ]


def outbox_table(metadata: MetaData) -> Table:
    """The outbox of the service whose schema ``metadata`` carries."""
    return Table(OUTBOX, metadata, *outbox_columns())


def create_outbox(op: Any) -> None:
    """Create the table; call it in a migration with alembic's ``op``."""
    op.create_table(OUTBOX, *outbox_columns())


async def enqueue(connection: AsyncConnection, outbox: Table, *messages: Message) -> None:
    """Write messages to be published, in this order, once ``connection``'s transaction commits.

    The current trace context travels with them. Wake the relay after the commit to publish at once.
    """
    if messages:
        source = outbox.schema or "leyden"
        await connection.execute(insert(outbox), [_row(message, source) for message in messages])


def _row(message: Message, source: str) -> dict[str, Any]:
    key = message.key()
    return {
        "topic": message.topic.name,
        "key": key,
        "value": encode(message),
        "headers": cloud_event_headers(message, source, key),
    }
