"""What the deployment's tests share: tools with a deadline, and the settings that services really read."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ("gateway", "runner", "reward", "credit", "registry", "learner", "inference")
TOOL_TIMEOUT_S = 60
FETCH_TIMEOUT_S = 300

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def attempt() -> Callable[..., Done]:
    """Runs a program (one of the environment's by name) from the root with a bare environment and ``env``."""

    def run(program: str | Path, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
        command = [str(Path(sys.executable).parent / program), *map(str, arguments)]
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", **(env or {})}
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            timeout=TOOL_TIMEOUT_S,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def output(attempt: Callable[..., Done]) -> Callable[..., str]:
    """Like ``attempt``, but returns what was printed and fails the test on another exit status than 0."""

    def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
        done = attempt(*command, env=env)
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def helm() -> Path:
    """Helm, fetched on the first use of a machine."""
    script = ROOT / "tests" / "tools" / "helm.py"
    found = subprocess.run(
        [sys.executable, str(script)], text=True, capture_output=True, timeout=FETCH_TIMEOUT_S, check=False
    )
    assert found.returncode == 0, found.stderr
    return Path(found.stdout.strip())


@pytest.fixture(scope="session")
def settings_types() -> dict[str, type[BaseSettings]]:
    """Every service's settings by its name."""
    return {name: _settings_type(name) for name in SERVICES}


def _settings_type(service: str) -> type[BaseSettings]:
    module = importlib.import_module(f"leyden_{service}.settings")
    found: type[BaseSettings] = getattr(module, f"{service.title()}Settings")
    return found


@pytest.fixture(scope="session")
def variables(settings_types: dict[str, type[BaseSettings]]) -> set[str]:
    """Every environment variable that some service reads."""
    return {name for settings in settings_types.values() for name in _variables(settings)}


def _variables(settings: type[BaseSettings]) -> Iterator[str]:
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        nested: Any = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseSettings):
            yield from _variables(nested)
        elif isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from (f"{prefix}{name}__{inner}".upper() for inner in nested.model_fields)
        else:
            yield f"{prefix}{name}".upper()
