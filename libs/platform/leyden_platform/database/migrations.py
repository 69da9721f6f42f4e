"""Running the alembic migrations that a service ships in its own package.

``<package>/migrations/NNNN_what.py`` are ordinary alembic revisions. There is no ``env.py`` and no ini file:
the environment is here, once. Inside a revision ``search_path`` is the service's schema, so unqualified
names land there.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import structlog
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from leyden_platform.database.engine import create_engine, transaction
from leyden_platform.settings import DatabaseSettings

log = structlog.get_logger(__name__)

MIGRATION_TIMEOUT_S = 300.0
"""Longest that one statement of a migration, or the wait for another replica's migration, may take."""

_LOCK = 0x1E7DE4_0001
"""Advisory lock of all Leyden migrations in a database: one at a time, whatever the schema."""

_VERSION_TABLE = "alembic_version"


class MigrationFailed(RuntimeError):
    """The schema could not be brought to what this release needs; nothing of it was applied."""


async def migrate(settings: DatabaseSettings, package: str, schema: str) -> None:
    """Bring ``schema`` to the newest revision in ``<package>.migrations``, creating the schema if need be.

    Idempotent, and safe when several replicas start together: one migrates, the others wait and find it done.
    All pending revisions are one transaction. Raises ``DatabaseUnreachable``, or ``MigrationFailed``.
    """
    patient = settings.model_copy(update={"statement_timeout_s": MIGRATION_TIMEOUT_S, "pool_size": 1})
    engine = create_engine(patient)
    try:
        scripts = ScriptDirectory(_folder(package), version_locations=[_folder(package)])
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
            await connection.execute(text(f'SET LOCAL search_path TO "{schema}"'))
            await connection.run_sync(_upgrade, scripts, schema)
    except (CommandError, DBAPIError) as error:
        raise MigrationFailed(f"{package}: cannot migrate schema {schema!r}: {error}") from error
    finally:
        await engine.dispose()


def _folder(package: str) -> str:
    return str(files(package).joinpath("migrations"))


def _upgrade(connection: Connection, scripts: ScriptDirectory, schema: str) -> None:
    applied: list[str] = []
    with EnvironmentContext(Config(), scripts, fn=_to_head(scripts, applied)) as environment:
        environment.configure(
            connection=connection, version_table=_VERSION_TABLE, version_table_schema=schema
        )
        environment.run_migrations()
    if applied:
        log.info("schema_migrated", schema=schema, revisions=applied)


def _to_head(scripts: ScriptDirectory, applied: list[str]) -> Callable[[Any, MigrationContext], Any]:
    def steps(current: Any, _context: MigrationContext) -> Any:
        pending = scripts._upgrade_revs("head", current)
        applied.extend(str(step.revision.revision) for step in pending)
        return pending

    return steps


async def schema_drift(engine: AsyncEngine, metadata: MetaData, schema: str) -> list[str]:
    """How the database's ``schema`` differs from ``metadata``; for tests of migrations."""

    def compare(connection: Connection) -> list[str]:
        options = {
            "compare_type": True,
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name == schema,
            "include_object": lambda _object, name, kind, _reflected, _other: name != _VERSION_TABLE,
        }
        return [str(difference) for difference in compare_metadata(_context(connection, options), metadata)]

    async with transaction(engine) as connection:
        return await connection.run_sync(compare)


def _context(connection: Connection, options: dict[str, Any]) -> MigrationContext:
    return MigrationContext.configure(connection, opts=options)
