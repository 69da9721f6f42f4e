"""The lifecycle: readiness, order of stopping, and failing loudly."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import SettingsConfigDict
from starlette.applications import Starlette

from leyden_platform.environment import BadSettings, read_settings, unread
from leyden_platform.http import HttpServer, PortInUse
from leyden_platform.messaging.connection import client_options
from leyden_platform.messaging.errors import MessagingError
from leyden_platform.ops import OpsServer
from leyden_platform.service import DrainTimedOut, load_settings, run_components
from leyden_platform.settings import (
    CatalogueSettings,
    DatabaseSettings,
    KafkaSettings,
    OpsSettings,
    ServiceSettings,
)
from leyden_platform.tokens import TokenSettings

SETTINGS = ServiceSettings(ops=OpsSettings(host="127.0.0.1", port=0), drain_timeout_s=5)


class Part:
    """A component that notes what happens to it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self._notes = name, notes
        self.waiting_for: str | None = None
        self.failure: Exception | None = None
        self.drains = True
        self.started = asyncio.Event()

    def not_ready(self) -> str | None:
        return self.waiting_for

    async def run(self, stop: asyncio.Event) -> None:
        self._notes.append(f"{self.name} started")
        self.started.set()
        if self.failure:
            raise self.failure
        await stop.wait()
        if not self.drains:
            await asyncio.Event().wait()
        self._notes.append(f"{self.name} drained")


async def test_components_stop_in_reverse_order() -> None:
    notes: list[str] = []
    first, second = Part("first", notes), Part("second", notes)
    stop = asyncio.Event()
    task = asyncio.create_task(run_components("test", SETTINGS, [first, second], stop))
    await asyncio.wait_for(second.started.wait(), 5)
    stop.set()
    await asyncio.wait_for(task, 5)
    assert notes == ["first started", "second started", "second drained", "first drained"]


async def test_a_failing_component_fails_the_service_after_draining_the_rest() -> None:
    notes: list[str] = []
    good, bad = Part("good", notes), Part("bad", notes)
    bad.failure = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="gone"):
        await asyncio.wait_for(run_components("test", SETTINGS, [good, bad], asyncio.Event()), 5)
    assert "good drained" in notes


async def test_a_component_that_never_drains_is_cut_off() -> None:
    part = Part("stuck", [])
    part.drains = False
    stop = asyncio.Event()
    stop.set()
    quick = SETTINGS.model_copy(update={"drain_timeout_s": 0.05})
    with pytest.raises(DrainTimedOut, match="stuck"):
        await asyncio.wait_for(run_components("test", quick, [part], stop), 5)


async def test_ops_port() -> None:
    part = Part("consumer", [])
    part.waiting_for = "waiting for partitions"
    async with (
        OpsServer(SETTINGS.ops, [part]) as ops,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{ops.port}") as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        waiting = await client.get("/readyz")
        assert (waiting.status_code, waiting.json()["waiting"]) == (
            503,
            {"consumer": "waiting for partitions"},
        )
        part.waiting_for = None
        assert (await client.get("/readyz")).json() == {"ready": True, "waiting": {}}
        assert "python_info" in (await client.get("/metrics")).text


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"127.0.0.1:{port}"):
            HttpServer("api", Starlette(), "127.0.0.1", port).bind()


class Strict(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LEYDEN_STRICT_")
    size: int


def test_a_bad_setting_ends_the_process_naming_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEYDEN_STRICT_SIZE", "large")
    with pytest.raises(SystemExit) as caught:
        load_settings(Strict)
    assert caught.value.code == 2
    assert "LEYDEN_STRICT_SIZE: Input should be a valid integer" in capsys.readouterr().err


class Grouped(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LEYDEN_GROUPED_")
    token: TokenSettings = Field(default_factory=TokenSettings)


def test_a_setting_of_a_shared_group_is_named_as_it_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEYDEN_TOKEN_SECRET", "short")
    with pytest.raises(SystemExit):
        load_settings(Grouped)
    assert "LEYDEN_TOKEN_SECRET: Value should have at least 32 items" in capsys.readouterr().err


class Listed(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LEYDEN_LISTED_")
    names: list[str] = Field(default=[])
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    catalogue: CatalogueSettings = Field(default_factory=CatalogueSettings)


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("LEYDEN_LISTED_NAMES", "tensorboard", "not JSON, which is"),
        ("LEYDEN_CATALOGUE_REWARDS", "{a:1}", "not JSON, which is"),
        ("LEYDEN_DATABASE_URL", "postgresql://me:secret@host/db", "write postgresql+asyncpg://"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_what_to_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load_settings(Listed)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{variable}: {text}")
    assert "secret" not in told


class Engine(BaseModel):
    args: list[str] = Field(default_factory=list)
    mode: str = "on"


class Composed(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LEYDEN_COMPOSED_", env_nested_delimiter="__")
    token: TokenSettings = Field(default_factory=TokenSettings)
    names: list[str] = Field(default_factory=list)
    engine: Engine = Field(default_factory=Engine)


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that ``Composed`` can be read from, to spoil."""
    monkeypatch.setenv("LEYDEN_TOKEN_SECRET", "s" * 32)
    return monkeypatch


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LEYDEN_COMPOSED_NAMES", "a,secret", "LEYDEN_COMPOSED_NAMES: not JSON, which is"),
        ("LEYDEN_COMPOSED_ENGINE__ARGS", "secret", "LEYDEN_COMPOSED_ENGINE__ARGS: not JSON, which is"),
        ("LEYDEN_KAFKA_SECURITY_PROTOCOL", "secret", "LEYDEN_KAFKA_SECURITY_PROTOCOL: Input should be"),
        ("LEYDEN_KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "needs LEYDEN_KAFKA_SASL_USERNAME and"),
        ("LEYDEN_KAFKA_COMPRESSION", "secret", "LEYDEN_KAFKA_COMPRESSION: Input should be"),
        ("LEYDEN_LOG_LEVEL", "secret", "LEYDEN_LOG_LEVEL: use DEBUG, INFO"),
    ],
)
def test_what_is_wrong_is_told_by_name_and_without_its_value(
    composed: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    composed.setenv(variable, value)
    composed.setenv("LEYDEN_COMPOSED_ENGINE__MODE", "not JSON, and need not be")
    with pytest.raises(BadSettings) as caught:
        read_settings(Composed)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert "secret" not in str(caught.value)


def test_a_refused_url_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_DATABASE_URL", "postgresql://leyden:secret@postgres/leyden")
    with pytest.raises(ValidationError) as raw:
        DatabaseSettings()
    assert "secret@" not in str(raw.value)


def test_variables_that_nobody_reads_are_named(composed: pytest.MonkeyPatch) -> None:
    for variable in ("NAMES", "ENGINE__MODE", "KAFKA__BOOTSTRAP", "NAME", "ENGIN__MODE"):
        composed.setenv(f"LEYDEN_COMPOSED_{variable}", "[]")
    composed.setenv("LEYDEN_KAFKA_BOOTSTRAPS", "kafka:9092")
    assert unread(Composed) == [
        "LEYDEN_COMPOSED_ENGIN__MODE",
        "LEYDEN_COMPOSED_NAME",
        "LEYDEN_KAFKA_BOOTSTRAPS",
    ]


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    settings = KafkaSettings(security_protocol="SSL", ca_file=str(tmp_path / "ca.crt"))
    with pytest.raises(MessagingError, match=r"LEYDEN_KAFKA_CA_FILE: .*ca\.crt"):
        client_options(settings)
