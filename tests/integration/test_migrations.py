"""Migrations shipped in a package, against a real Postgres: races, repeats, failures."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, text
from sqlalchemy.exc import ProgrammingError

from leyden_platform.database import (
    DatabaseUnreachable,
    MigrationFailed,
    create_engine,
    migrate,
    outbox_table,
    schema_drift,
    transaction,
)
from leyden_platform.settings import DatabaseSettings

pytestmark = pytest.mark.postgres

FIRST = """
import sqlalchemy as sa
from alembic import op
from leyden_platform.database import create_outbox

revision, down_revision = "0001", None


def upgrade():
    op.create_table("things", sa.Column("id", sa.BigInteger, primary_key=True))
    create_outbox(op)
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade():
    op.add_column("things", sa.Column("name", sa.Text))
"""
BROKEN = SECOND.replace('"things"', '"no_such_table"')


class Package:
    """An importable package whose migrations a test writes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._migrations = name, folder / name / "migrations"
        self._migrations.mkdir(parents=True)
        (folder / name / "__init__.py").touch()

    def write(self, revision: str, source: str) -> None:
        """Add or replace a revision."""
        (self._migrations / f"{revision}.py").write_text(source)

    def remove(self, revision: str) -> None:
        """Forget a revision, as an older release would."""
        (self._migrations / f"{revision}.py").unlink()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package with one migration."""
    monkeypatch.syspath_prepend(tmp_path)
    made = Package(tmp_path, f"migrated_{tmp_path.name}".replace("-", "_"))
    made.write("0001_first", FIRST)
    return made


async def _scalar(settings: DatabaseSettings, query: str) -> object:
    engine = create_engine(settings)
    try:
        async with transaction(engine) as connection:
            return await connection.scalar(text(query))
    finally:
        await engine.dispose()


async def test_replicas_that_start_together_migrate_once(
    database: DatabaseSettings, package: Package
) -> None:
    await asyncio.gather(*(migrate(database, package.name, "thing") for _ in range(4)))
    assert await _scalar(database, "SELECT count(*) FROM thing.things") == 0
    assert await _scalar(database, "SELECT string_agg(version_num, ',') FROM thing.alembic_version") == "0001"


async def test_services_with_their_own_schemas_migrate_side_by_side(
    database: DatabaseSettings, package: Package
) -> None:
    await asyncio.gather(*(migrate(database, package.name, schema) for schema in ("a", "b", "c")))
    schemas = "SELECT count(*) FROM pg_tables WHERE tablename = 'outbox' AND schemaname IN ('a', 'b', 'c')"
    assert await _scalar(database, schemas) == 3
    assert await _scalar(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_a_new_release_applies_only_what_is_new(database: DatabaseSettings, package: Package) -> None:
    await migrate(database, package.name, "thing")
    await _scalar(database, "INSERT INTO thing.things VALUES (1) RETURNING id")
    package.write("0002_second", SECOND)
    await migrate(database, package.name, "thing")
    await migrate(database, package.name, "thing")
    assert await _scalar(database, "SELECT count(*) FROM thing.things WHERE name IS NULL") == 1


async def test_a_failing_migration_leaves_nothing_behind(
    database: DatabaseSettings, package: Package
) -> None:
    package.write("0002_second", BROKEN)
    with pytest.raises(MigrationFailed, match="no_such_table"):
        await migrate(database, package.name, "thing")
    assert await _scalar(database, "SELECT to_regnamespace('thing') IS NULL")


async def test_an_older_release_refuses_a_newer_schema(database: DatabaseSettings, package: Package) -> None:
    package.write("0002_second", SECOND)
    await migrate(database, package.name, "thing")
    package.remove("0002_second")
    with pytest.raises(MigrationFailed, match="0002"):
        await migrate(database, package.name, "thing")


async def test_drift_names_what_the_migrations_forgot(database: DatabaseSettings, package: Package) -> None:
    await migrate(database, package.name, "thing")
    metadata = MetaData(schema="thing")
    outbox_table(metadata)
    things = Table("things", metadata, Column("id", BigInteger, primary_key=True))
    engine = create_engine(database)
    assert await schema_drift(engine, metadata, "thing") == []
    things.append_column(Column("name", Text))
    (difference,) = await schema_drift(engine, metadata, "thing")
    assert "add_column" in difference
    assert "name" in difference
    await engine.dispose()


async def test_a_package_without_migrations_is_named(database: DatabaseSettings) -> None:
    with pytest.raises(MigrationFailed, match="leyden_schemas"):
        await migrate(database, "leyden_schemas", "thing")


async def test_an_unreachable_database_is_named_without_its_password(package: Package) -> None:
    settings = DatabaseSettings(
        url=SecretStr("postgresql+asyncpg://leyden:hidden@127.0.0.1:1/leyden"), connect_timeout_s=2
    )
    with pytest.raises(DatabaseUnreachable, match=r"127\.0\.0\.1:1/leyden") as caught:
        await migrate(settings, package.name, "thing")
    assert "hidden" not in str(caught.value)


async def test_a_missing_database_is_unreachable(database: DatabaseSettings) -> None:
    url = database.url.get_secret_value().rsplit("/", 1)[0] + "/absent"
    engine = create_engine(DatabaseSettings(url=SecretStr(url)))
    with pytest.raises(DatabaseUnreachable, match="absent"):
        async with transaction(engine):
            pass


async def test_a_connection_cut_in_a_transaction_is_unreachable_and_the_next_one_works(
    database: DatabaseSettings,
) -> None:
    engine = create_engine(database)

    async def cut() -> None:
        async with transaction(engine) as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
            await _scalar(database, f"SELECT pg_terminate_backend({pid})")
            await connection.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnreachable):
        await cut()
    async with transaction(engine) as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SELECT pg_sleep(20)", "statement timeout"),
        ("SET TRANSACTION READ ONLY; CREATE TABLE x (y int)", "read-only"),
        ("DO $$BEGIN RAISE 'no room' USING ERRCODE = '53100'; END$$", "no room"),
        ("DO $$BEGIN RAISE 'in the way' USING ERRCODE = '40P01'; END$$", "in the way"),
    ],
)
async def test_what_passes_is_unreachable_and_not_an_error(
    database: DatabaseSettings, statement: str, told: str
) -> None:
    """A slow disk, a failover to a server that cannot write yet, a full disk, a deadlock."""
    engine = create_engine(database.model_copy(update={"statement_timeout_s": 0.5}))

    async def run() -> None:
        async with transaction(engine) as connection:
            for part in statement.split("; ") if statement.startswith("SET") else [statement]:
                await connection.execute(text(part))

    with pytest.raises(DatabaseUnreachable, match=told):
        await run()
    await engine.dispose()


async def test_a_mistake_in_a_statement_is_an_error(database: DatabaseSettings) -> None:
    engine = create_engine(database)
    with pytest.raises(ProgrammingError, match="nowhere"):
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT * FROM nowhere"))
    await engine.dispose()
