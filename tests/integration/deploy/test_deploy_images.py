"""The Dockerfile against hadolint and the rules that hadolint does not know."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

SERVICES = ("gateway", "runner", "reward", "credit", "registry", "learner", "inference")


def stages(root: Path) -> dict[str, list[str]]:
    """The instructions of every stage by its name, continuation lines joined."""
    text = (root / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in (line for line in text.splitlines() if line and not line.startswith("#")):
        if match := re.match(r"FROM (\S+) AS ([\w-]+)$", line):
            found[match[2]] = [line]
        elif found:
            found[list(found)[-1]].append(line)
    return found


def test_hadolint_has_nothing_to_say(output: Callable[..., str]) -> None:
    """Not even a hint."""
    assert output("hadolint", "--failure-threshold", "style", "Dockerfile") == ""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_image_runs_its_service_without_root(root: Path, service: str) -> None:
    """A shell between the service and SIGTERM would swallow the signal; root is never needed."""
    found = stages(root)
    assert found[service][0] == f"FROM runtime AS {service}"
    assert found[service][-1] == f'ENTRYPOINT ["python", "-m", "leyden_{service}"]'
    assert f"COPY --from={service}-environment /opt/venv /opt/venv" in found[service]
    assert "USER 10001:10001" in found["runtime"]
    assert any(line.startswith("HEALTHCHECK") for line in found["runtime"])


def test_no_registry_or_index_is_named(root: Path) -> None:
    """Base images and packages come from wherever the builder is configured to look."""
    dockerfile = (root / "Dockerfile").read_text()
    assert re.findall(r"^ARG BASE_IMAGE=(.*)$", dockerfile, re.MULTILINE) == ["python:3.11-slim"]
    instructions = "\n".join(line for line in dockerfile.splitlines() if not line.startswith("#"))
    assert not re.search(r"https?://|--index-url|--extra-index-url|\w\.(io|com|org)/", instructions)


def test_the_build_context_holds_only_what_is_copied(root: Path) -> None:
    """Everything but a list is shut out, so that no secret enters a build by accident."""
    rules = [
        line
        for line in (root / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for lines in stages(root).values()
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert {source for source in copied if not any(_inside(source, folder) for folder in allowed)} == set()
    assert all((root / source).exists() for source in copied)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
