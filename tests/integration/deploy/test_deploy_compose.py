"""docker-compose.yml through the real Compose, and its environment through the services' real settings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

SECRETS = {
    "LEYDEN_TOKEN_SECRET": "0123456789abcdef0123456789abcdef",
    "LEYDEN_POSTGRES_PASSWORD": "postgrespassword",
    "LEYDEN_GRAFANA_PASSWORD": "grafanapassword",
}
SERVICES = ("gateway", "runner", "reward", "credit", "registry", "learner", "inference")
JOBS = ("topics", "seed")
VLLM = ("docker-compose.yml", "deploy/compose/vllm.yml", "deploy/compose/vllm-gpu.yml")
COMMAND = ("docker-compose", "--env-file", "/dev/null", "config")


@pytest.fixture(scope="module")
def compose(output: Callable[..., str]) -> dict[str, Any]:
    """The project as Compose understands it."""
    project: dict[str, Any] = json.loads(output(*COMMAND, "--format", "json", env=SECRETS))
    return project


def test_yamllint_accepts_the_files(output: Callable[..., str]) -> None:
    """Anchors used and declared once, no duplicate keys, no tabs."""
    rules = "{extends: relaxed, rules: {line-length: {max: 140}, anchors: {forbid-unused-anchors: true}}}"
    assert output("yamllint", "--strict", "-d", rules, *VLLM, "deploy/prometheus") == ""


@pytest.mark.parametrize("missing", SECRETS)
def test_nothing_starts_without_its_secrets(attempt: Callable[..., Any], missing: str) -> None:
    """And the complaint names the variable."""
    done = attempt(*COMMAND, "--quiet", env={k: v for k, v in SECRETS.items() if k != missing})
    assert done.returncode != 0
    assert missing in done.stderr


def test_the_example_environment_names_every_secret(root: Path) -> None:
    """``cp .env.example .env`` shows what to fill in."""
    lines = (root / ".env.example").read_text().splitlines()
    assert [line.rstrip("=") for line in lines if line and not line.startswith("#")] == list(SECRETS)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_the_environment_it_is_given(
    compose: dict[str, Any],
    settings_types: dict[str, type[BaseSettings]],
    monkeypatch: pytest.MonkeyPatch,
    service: str,
) -> None:
    """The variables that Compose sets make valid settings."""
    for name, value in compose["services"][service]["environment"].items():
        monkeypatch.setenv(name, value)
    settings_types[service]()


def test_no_variable_is_misspelt(compose: dict[str, Any], variables: set[str]) -> None:
    """Every LEYDEN_ variable of a service is one that some service reads."""
    given = {name for service in SERVICES for name in compose["services"][service]["environment"]}
    assert {name for name in given if name.startswith("LEYDEN_")} - variables == set()


def test_secrets_reach_only_who_needs_them(compose: dict[str, Any]) -> None:
    """Reward runs user code, inference and credit need neither database nor tokens."""
    holders = {
        secret: {
            name
            for name, service in compose["services"].items()
            if any(value in str(text) for text in (service.get("environment") or {}).values())
        }
        for secret, value in SECRETS.items()
    }
    assert holders == {
        "LEYDEN_TOKEN_SECRET": {"gateway", "runner"},
        "LEYDEN_POSTGRES_PASSWORD": {"postgres", "registry", "runner", "learner"},
        "LEYDEN_GRAFANA_PASSWORD": {"grafana"},
    }


def test_every_port_is_bound_to_this_machine_only(compose: dict[str, Any]) -> None:
    """Nothing listens on the network unless somebody decides so."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)


def test_every_service_is_bounded_checked_and_restarted(compose: dict[str, Any]) -> None:
    """Memory limits, health checks and restart policies are no one's afterthought."""
    for name, service in compose["services"].items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["restart"] == ("on-failure:5" if name in JOBS else "unless-stopped"), name
        assert name in JOBS or service["healthcheck"]["test"], name


@pytest.mark.parametrize("name", [*SERVICES, *JOBS])
def test_our_containers_are_hardened(compose: dict[str, Any], name: str) -> None:
    """Read-only, without capabilities, unable to gain privileges."""
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", SERVICES)
def test_services_wait_for_their_topics(compose: dict[str, Any], service: str) -> None:
    """And for a healthy database where they use one."""
    depends = compose["services"][service]["depends_on"]
    assert depends["topics"]["condition"] == "service_completed_successfully"
    uses_database = "LEYDEN_DATABASE_URL" in compose["services"][service]["environment"]
    assert ("postgres" in depends) is uses_database


def test_the_gateway_has_a_spool_that_outlives_it(compose: dict[str, Any]) -> None:
    """A volume of its own, writable, where the setting says."""
    gateway = compose["services"]["gateway"]
    (mount,) = gateway["volumes"]
    assert (mount["type"], mount["source"]) == ("volume", "spool")
    assert mount["target"] == gateway["environment"]["LEYDEN_GATEWAY_SPOOL_DIR"]
    assert not mount.get("read_only")


def test_the_examples_of_the_gateway_s_own_settings_are_accepted(
    settings_types: dict[str, type[BaseSettings]], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keys filled in."""
    lines = (root / "deploy/compose/gateway.env").read_text().splitlines()
    examples = dict(line.removeprefix("# ").split("=", 1) for line in lines if "=" in line)
    assert len(examples) == 5
    for name, value in examples.items():
        monkeypatch.setenv(name, value.strip("'") or "a-key-of-somebody-s")
    given = settings_types["gateway"].model_validate({"token": {"secret": "x" * 32}}).model_dump()
    assert given["attribution"]["api_keys"]["shop"]["key_env"] == "SHOP_LEYDEN_KEY"
    assert given["routing"]["externals"]["judge"]["model"] == "gpt-4.1"


def test_only_the_learner_writes_checkpoints(compose: dict[str, Any]) -> None:
    """Those who read them see them under the same path, since artifacts are named by path."""
    mounts = {
        name: (volume["target"], volume.get("read_only", False))
        for name, service in compose["services"].items()
        for volume in service.get("volumes", [])
        if volume.get("source") == "checkpoints"
    }
    folder = compose["services"]["learner"]["environment"]["LEYDEN_LEARNER_CHECKPOINT_DIR"]
    assert mounts == {"learner": (folder, False), "registry": (folder, True), "inference": (folder, True)}


def test_prometheus_scrapes_every_service(root: Path) -> None:
    """By the names that Compose gives them, on the operations port."""
    config = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text())
    (discovery,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert set(discovery["names"]) == set(SERVICES)
    assert discovery["port"] == 9100


def test_every_mounted_file_exists(compose: dict[str, Any]) -> None:
    """Docker would silently make an empty folder of a path that is missing."""
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), (name, volume["source"])


def test_the_example_is_wired_to_code_that_exists(compose: dict[str, Any], root: Path) -> None:
    """Agent and reward by "module:function" under the mounted folder, and the seed by its path."""
    agents = json.loads(compose["services"]["runner"]["environment"]["LEYDEN_RUNNER_AGENTS"])
    rewards = json.loads(compose["services"]["reward"]["environment"]["LEYDEN_CATALOGUE_REWARDS"])
    for target in [*(agent["callable"] for agent in agents.values()), *rewards.values()]:
        module, _, function = target.partition(":")
        source = (root / "examples" / module.replace(".", "/")).with_suffix(".py").read_text()
        assert f"\ndef {function}(" in source
    policy, seed = compose["services"]["seed"]["command"][2:]
    assert policy == compose["services"]["learner"]["environment"]["LEYDEN_LEARNER_POLICY"]
    assert (root / "examples" / Path(seed).relative_to("/app/user") / "config.json").exists()


@pytest.fixture(scope="module")
def with_vllm(output: Callable[..., str]) -> dict[str, Any]:
    """The same project with vLLM on a GPU."""
    files = [part for name in VLLM for part in ("-f", name)]
    command = ("docker-compose", "--env-file", "/dev/null", *files, "config", "--format", "json")
    image = {"LEYDEN_VLLM_IMAGE": "vllm/vllm-openai:v0.32.0"}
    project: dict[str, Any] = json.loads(output(*command, env=SECRETS | image))
    return project


def test_vllm_is_driven_by_inference_and_reached_by_nobody_else(
    compose: dict[str, Any],
    with_vllm: dict[str, Any],
    settings_types: dict[str, type[BaseSettings]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights are found under one path by both; the gateway needs no change."""
    inference, vllm = (with_vllm["services"][name] for name in ("inference", "vllm"))
    for name, value in inference["environment"].items():
        monkeypatch.setenv(name, value)
    given = settings_types["inference"]().model_dump()
    assert given["engine"] == "vllm"
    assert given["policies"] == ["calculator"]
    assert given["vllm"]["urls"] == ["http://vllm:8000"]
    assert "ports" not in vllm
    assert vllm["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert vllm["command"][0] == with_vllm["services"]["seed"]["command"][3]
    targets = {volume["target"] for volume in vllm["volumes"]}
    assert targets >= {volume["target"] for volume in inference["volumes"]}
    assert vllm["environment"]["PYTHONPATH"] in targets
    assert all(volume["read_only"] for volume in vllm["volumes"])
    (device,) = vllm["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert with_vllm["services"]["gateway"] == compose["services"]["gateway"]


def test_vllm_needs_an_image(attempt: Callable[..., Any]) -> None:
    """There is one for GPUs and one for CPUs, so there is no default."""
    files = [part for name in VLLM for part in ("-f", name)]
    done = attempt("docker-compose", "--env-file", "/dev/null", *files, "config", "--quiet", env=SECRETS)
    assert done.returncode != 0
    assert "LEYDEN_VLLM_IMAGE" in done.stderr
