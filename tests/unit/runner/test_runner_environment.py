"""What agents see, and above all what they do not."""

import json

import pytest
from pydantic import SecretStr, ValidationError

from leyden_platform.tokens import TokenSettings
from leyden_runner.environment import MAX_VARIABLE_BYTES, agent_environment, inherited, task_json
from leyden_runner.settings import (
    CallableAgent,
    CommandAgent,
    RunnerSettings,
    rollout_topic,
    task_topic,
)
from leyden_schemas import RolloutAssigned, Task, Topics

TOKEN = TokenSettings(secret=SecretStr("x" * 32))


def test_secrets_are_not_inherited() -> None:
    runner = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "https_proxy": "http://p",
        "MINE": "1",
        "LEYDEN_TOKEN_SECRET": "s",
        "LEYDEN_DATABASE_URL": "postgresql://u:p@h/d",
    }
    kept = {"PATH": "/bin", "LC_ALL": "C", "https_proxy": "http://p"}
    assert inherited(runner, ()) == kept
    assert inherited(runner, ["MINE"]) == {**kept, "MINE": "1"}


def test_the_agent_never_sees_the_reference(assigned: RolloutAssigned) -> None:
    shown = json.loads(task_json(assigned.task))
    assert shown["input"] == {"x": 1}
    assert not {"reference", "reward"} & shown.keys()
    environment = agent_environment(assigned, 2, gateway_url="http://g/", token="t", traceparent="00-a-b-01")
    assert "secret answer" not in str(environment)


def test_the_addresses_carry_rollout_and_attempt(assigned: RolloutAssigned) -> None:
    environment = agent_environment(assigned, 2, gateway_url="http://g/", token="t", traceparent="00-a-b-01")
    assert environment["OPENAI_BASE_URL"] == f"http://g/rollouts/{assigned.rollout_id}/attempts/2/v1"
    assert environment["OPENAI_API_KEY"] == "t"
    assert environment["OPENAI_MODEL"] == "calculator"
    assert environment["ANTHROPIC_BASE_URL"] == f"http://g/rollouts/{assigned.rollout_id}/attempts/2"
    assert environment["ANTHROPIC_API_KEY"] == "t"
    assert environment["TRACEPARENT"] == "00-a-b-01"
    assert json.loads(environment["LEYDEN_TASK"])["task_id"] == "t"
    without = agent_environment(assigned, 2, gateway_url="http://g", token="t", traceparent=None)
    assert "TRACEPARENT" not in without


def test_a_task_too_large_for_a_variable_is_left_out() -> None:
    task = Task(task_id="t", input={"x": "y" * MAX_VARIABLE_BYTES}, policy="p")
    (assigned,) = RolloutAssigned.fan_out(task)
    environment = agent_environment(assigned, 1, gateway_url="http://g", token="t", traceparent=None)
    assert "LEYDEN_TASK" not in environment


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {
        "default": {"callable": "a.b:c", "env": {"K": "v"}},
        "shell": {"command": ["sh", "-c", "true"]},
    }
    monkeypatch.setenv("LEYDEN_RUNNER_AGENTS", json.dumps(agents))
    monkeypatch.setenv("LEYDEN_RUNNER_QUEUES", '["default", "gpu"]')
    monkeypatch.setenv("LEYDEN_TOKEN_SECRET", "x" * 32)
    settings = RunnerSettings()
    assert settings.agents == {
        "default": CallableAgent(callable="a.b:c", env={"K": "v"}),
        "shell": CommandAgent(command=["sh", "-c", "true"]),
    }
    assert [task_topic(queue).name for queue in settings.queues] == [
        Topics.TASKS.name,
        f"{Topics.TASKS.name}.gpu",
    ]
    assert rollout_topic("gpu").name == f"{Topics.ROLLOUTS.name}.gpu"
    assert settings.grace_s == 15.0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"agents": {}}, "name at least one agent"),
        ({"agents": {"a": {"callable": "no colon"}}}, "agents.a"),
        ({"agents": {"a": {"command": []}}}, "agents.a"),
        ({"agents": {"a": {"callable": "a:b", "comand": "typo"}}}, "Extra inputs"),
        ({"heartbeat_s": 10}, "must be at most half of lease_s"),
        ({"max_task_bytes": 8 * 1024 * 1024}, "max_task_bytes=8388608 must be at least 65536 below"),
        ({"concurrency": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_say_why(changes: dict[str, object], text: str) -> None:
    values = {"token": TOKEN, "agents": {"default": {"callable": "a:b"}}, **changes}
    with pytest.raises(ValidationError, match=text):
        RunnerSettings.model_validate(values)
