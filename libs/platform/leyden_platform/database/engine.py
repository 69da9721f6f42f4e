"""The async engine, and transactions that say plainly when Postgres is away.

What will pass, such as a lost connection or a full disk of its own, is ``DatabaseUnreachable``, which is an
``Unavailable``: a consumer that raises it keeps its message and tries again. Every wait has a deadline:
connecting, waiting for the pool, each statement.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from leyden_platform.messaging.errors import Unavailable
from leyden_platform.settings import DatabaseSettings

_CLIENT_GRACE_S = 5.0
"""How much longer than the server the client waits for a statement before it gives the connection up."""

_CANNOT_CONNECT = (
    OSError,
    TimeoutError,
    PoolTimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)
_LOST_STATES = ("08", "57P", "57014", "53", "58", "40", "25006")
"""SQLSTATE prefixes of what passes: connection exceptions, the server shutting down or starting up, a
statement that took too long, no room on its disk or in its memory, an error of its system, transactions in
each other's way, and a server that is not, or not yet, the primary after a failover."""


class DatabaseUnreachable(Unavailable):
    """Postgres refused the connection, is late, went away or cannot write; the text says which and where."""


def create_engine(settings: DatabaseSettings) -> AsyncEngine:
    """An engine over asyncpg. Opens nothing yet; ``transaction`` connects.

    A statement is cancelled by the server after ``statement_timeout_s``; a connection that stays silent
    longer is given up. Connections are tested before use, so a restarted Postgres costs no request.
    """
    return create_async_engine(
        settings.url.get_secret_value(),
        pool_size=settings.pool_size,
        max_overflow=settings.pool_size,
        pool_pre_ping=True,
        pool_timeout=settings.connect_timeout_s,
        connect_args={
            "timeout": settings.connect_timeout_s,
            "command_timeout": settings.statement_timeout_s + _CLIENT_GRACE_S,
            "server_settings": {
                "application_name": "leyden",
                "statement_timeout": str(int(settings.statement_timeout_s * 1000)),
            },
        },
    )


def describe(engine: AsyncEngine) -> str:
    """Where the engine connects, without the password."""
    return engine.url.render_as_string(hide_password=True)


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection inside a transaction: committed at the end, rolled back by any exception.

    Raises ``DatabaseUnreachable`` when Postgres cannot be reached or goes away meanwhile. When that
    happens at the commit itself, whether it took place is unknown: what is written must be idempotent.
    """
    connection = await _connect(engine)
    try:
        async with connection.begin():
            yield connection
    except (DBAPIError, TimeoutError) as error:
        if isinstance(error, DBAPIError) and not _connection_lost(error):
            raise
        raise DatabaseUnreachable(f"lost Postgres at {describe(engine)}: {error}") from error
    finally:
        await connection.close()


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    try:
        return await engine.connect()
    except _CANNOT_CONNECT as error:
        raise _unreachable(engine, error) from error
    except DBAPIError as error:
        raise _unreachable(engine, error.orig or error) from error


def _unreachable(engine: AsyncEngine, error: BaseException) -> DatabaseUnreachable:
    reason = str(error) or type(error).__name__
    return DatabaseUnreachable(f"cannot reach Postgres at {describe(engine)} (LEYDEN_DATABASE_URL): {reason}")


def _connection_lost(error: DBAPIError) -> bool:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state.startswith(_LOST_STATES)
