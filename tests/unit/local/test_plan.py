"""What a stack is made of."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from leyden_local.config import StackConfig
from leyden_local.plan import SERVICES, Ports, Stage, plan
from leyden_local.ports import accepts, free_ports
from leyden_local.state import Endpoints, Phase, StackFolder, StackState

FREE = list(range(10_000, 10_000 + Ports.needed()))


def make(tmp_path: Path, **changes: object) -> StackConfig:
    return StackConfig.model_validate({"directory": tmp_path, "path": [tmp_path]} | changes)


def test_every_service_gets_its_own_ports(tmp_path: Path) -> None:
    config = make(tmp_path)
    ports = Ports.of(FREE, config)
    specs = plan(config, StackFolder(tmp_path), ports, tmp_path / "pg", "secret")
    assert [spec.name for spec in specs] == ["kafka", "postgres", *SERVICES]
    assert [spec.stage for spec in specs[:3]] == [Stage.INFRASTRUCTURE, Stage.INFRASTRUCTURE, Stage.REGISTRY]
    ops = [spec.environment["LEYDEN_OPS_PORT"] for spec in specs[2:]]
    assert len(set(ops)) == len(SERVICES)
    gateway = next(spec for spec in specs if spec.name == "gateway").environment
    assert gateway["LEYDEN_GATEWAY_REPLICAS"] == f"http://127.0.0.1:{ports.inference}"
    assert {spec.environment["LEYDEN_TOKEN_SECRET"] for spec in specs[2:]} == {"secret"}


def test_fixed_ports_and_no_learner(tmp_path: Path) -> None:
    config = make(tmp_path, gateway_port=8000, kafka_port=9092, train=False)
    ports = Ports.of(FREE, config)
    assert (ports.gateway, ports.kafka) == (8000, 9092)
    specs = plan(config, StackFolder(tmp_path), ports, tmp_path / "pg", "s")
    assert "learner" not in [spec.name for spec in specs]


def test_settings_reach_the_services_and_others_of_ours_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_RUNNER_CONCURRENCY", "999")
    config = make(tmp_path, settings={"LEYDEN_REWARD_WORKERS": "3"}, agents={"default": {"callable": "a:b"}})
    specs = plan(config, StackFolder(tmp_path), Ports.of(FREE, config), tmp_path / "pg", "s")
    runner = next(spec for spec in specs if spec.name == "runner").environment
    assert runner["LEYDEN_REWARD_WORKERS"] == "3"
    assert "LEYDEN_RUNNER_CONCURRENCY" not in runner
    assert json.loads(runner["LEYDEN_RUNNER_AGENTS"]) == {"default": {"callable": "a:b"}}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"settings": {"PATH": "/"}}, "LEYDEN_ or OTEL_"),
        ({"model": "/does/not/exist"}, "/does/not/exist is not a folder"),
        ({"gateway_port": 70_000}, "less than or equal to 65535"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_a_bad_configuration_says_why(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        make(tmp_path, **change)


def test_free_ports_are_distinct_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert not any(accepts(port) for port in ports)


def test_free_ports_may_be_a_row() -> None:
    first, *others = free_ports(3, consecutive=True)
    assert others == [first + 1, first + 2]


def test_a_dead_supervisor_is_not_alive(tmp_path: Path) -> None:
    endpoints = Endpoints(kafka="", database="", gateway="", registry="", inference="")
    folder = StackFolder(tmp_path)
    assert folder.read() is None
    folder.write(StackState(pid=2**22 + 1, created=0, phase=Phase.RUNNING, endpoints=endpoints))
    state = folder.read()
    assert state is not None
    assert not state.alive
