"""One gateway, one replica and one program for each client library, for the whole session."""

import os
from collections.abc import Iterator

import pytest
from client_programs import ClientProgram, Programs, clients_python
from client_stack import Stack, running_stack
from embedded_broker import running_broker
from scripted_replica import ScriptedReplica

from leyden_platform.settings import KafkaSettings


@pytest.fixture(scope="session")
def clients_environment() -> None:
    """Fail with what to do when the libraries' environment is missing."""
    clients_python()


@pytest.fixture(scope="session")
def stack(clients_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_broker() as bootstrap:
        kafka = KafkaSettings(bootstrap=bootstrap, idempotent="LEYDEN_TEST_KAFKA" in os.environ)
        with running_stack(kafka, tmp_path_factory.mktemp("gateway") / "gateway.log") as running:
            yield running


@pytest.fixture
def replica(stack: Stack) -> ScriptedReplica:
    """The replica, with its script and what it saw reset."""
    stack.replica.script()
    return stack.replica


@pytest.fixture(scope="session")
def program(clients_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Programs by name, started when first asked for."""
    folder = tmp_path_factory.mktemp("programs")
    running: dict[str, ClientProgram] = {}

    def named(name: str) -> ClientProgram:
        if name not in running:
            running[name] = ClientProgram(name, folder / f"{name}.log")
        return running[name]

    yield named
    for each in running.values():
        each.close()
