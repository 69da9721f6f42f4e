"""Fixtures that every suite shares: a real broker and a real Postgres.

Both are embedded unless the environment names others.

``LEYDEN_TEST_KAFKA`` (host:port) and ``LEYDEN_TEST_POSTGRES`` (a SQLAlchemy URL of a superuser) point the
suites at other servers.
"""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
import structlog
from await_port import START_TIMEOUT_S, await_port
from embedded_broker import running_broker
from hypothesis import HealthCheck, settings
from object_store import Bucket, environment, make_bucket, running_s3
from pydantic import SecretStr
from structlog._config import BoundLoggerLazyProxy

from leyden_local import postgres
from leyden_local.ports import free_ports
from leyden_platform.settings import DatabaseSettings, KafkaSettings

if TYPE_CHECKING:
    from learner_harness import World

# A busy machine makes examples slow to draw and to run; that says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell's background job ignores Ctrl-C, and so would everything that tests start and then interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what commands and services set up for a whole process when a test runs them in its own."""
    configured, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    if structlog.get_config() == configured:
        return
    structlog.configure(**configured)
    ours = [module for name, module in sys.modules.items() if name.startswith("leyden")]
    for module in ours:
        for value in list(vars(module).values()):
            if isinstance(value, BoundLoggerLazyProxy):
                vars(value).pop("bind", None)  # what it keeps of the configuration it was first used under
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def kafka_bootstrap() -> Iterator[str]:
    """Address of a broker of the module's own, so that no module reads what another left behind."""
    with running_broker() as bootstrap:
        yield bootstrap


@pytest.fixture(scope="module")
def kafka(kafka_bootstrap: str) -> KafkaSettings:
    """The embedded broker has no idempotent producer, and joining takes as long as old sessions may last."""
    embedded = "LEYDEN_TEST_KAFKA" not in os.environ
    return KafkaSettings(
        bootstrap=kafka_bootstrap, idempotent=not embedded, session_timeout_s=3 if embedded else 6
    )


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the maintenance database of a server that lives as long as the test session."""
    if given := os.environ.get("LEYDEN_TEST_POSTGRES"):
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="leyden-test-pg-"))
    folder.chmod(0o755)
    (port,) = free_ports(1)
    postgres.initialise(folder / "data")
    process = subprocess.Popen(
        postgres.postgres_command(folder / "data", port, durable=False),
        user=postgres.unprivileged_user(),
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_port(process, port)
        yield postgres.database_url(port)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


async def _connected(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    """A server listens before it takes connections."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            try:
                return await asyncpg.connect(url)
            except asyncpg.CannotConnectNowError:
                await asyncio.sleep(0.05)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[DatabaseSettings]:
    """A fresh, empty database, dropped afterwards."""
    name = f"test_{uuid4().hex}"
    plain = postgres_url.replace("+asyncpg", "")
    connection = await _connected(plain)
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
        yield DatabaseSettings(url=SecretStr(postgres_url.rsplit("/", 1)[0] + f"/{name}"))
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server of objects that lives as long as the test session."""
    with running_s3() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket of a real server with S3's interface, to which this process has the credentials."""
    for name, value in environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return make_bucket(s3_endpoint)


@pytest.fixture
async def make_world(
    kafka: KafkaSettings, postgres_url: str, database: DatabaseSettings, tmp_path: Path
) -> "Callable[[], World]":
    """Worlds of a test of the real learner."""
    from learner_harness import worlds  # imports torch, which other suites need not wait for

    return await worlds(kafka, database, tmp_path)
