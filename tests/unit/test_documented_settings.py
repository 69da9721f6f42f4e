"""The tables of settings say what the classes say: every variable of every service, and its default."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from leyden_credit.settings import CreditSettings
from leyden_inference.settings import InferenceSettings
from leyden_learner.settings import LearnerSettings
from leyden_platform.environment import groups
from leyden_registry.settings import RegistrySettings
from leyden_reward.settings import RewardSettings
from leyden_runner.settings import RunnerSettings

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in sorted(ROOT.glob("docs/*.md"))
    if not page.name.startswith(("gateway", "deploy", "local", "howto"))
]
SERVICES = (
    CreditSettings,
    InferenceSettings,
    LearnerSettings,
    RegistrySettings,
    RewardSettings,
    RunnerSettings,
)
UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
WORDED = {"REWARD_FEEDBACK_SCALES": "above", "RUNNER_AGENTS": "required"}
"""Defaults that a table tells in a word of its own."""


def defaults() -> dict[str, Any]:
    """Every variable and its default; of one that must be set, ``required``."""
    found: dict[str, Any] = {}
    for group in {group for service in SERVICES for group in groups(service)}:
        found |= dict(_fields(group, group.model_config.get("env_prefix", "")))
    return found


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseSettings):
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel) and name == "vllm":
            yield from _fields(inner, f"{prefix}{name.upper()}__")
            continue
        default = field.get_default(call_default_factory=True)
        yield prefix + name.upper(), "required" if default is PydanticUndefined else _plain(default)


def _plain(default: Any) -> Any:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    plain = TypeAdapter(Any).dump_python(default, mode="json", exclude_defaults=True)
    return plain.removesuffix("/") if isinstance(plain, str) else plain


def told() -> Iterator[tuple[str, str]]:
    """Every variable in a table of a page, and the default that stands beside it."""
    for page in PAGES:
        for section in re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE):
            prefix = re.search(r"`(LEYDEN_[A-Z_]+_)…`", section)
            for keys, said in re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) \| ", section, re.MULTILINE):
                names = re.findall(r"`([A-Z_]+)`", keys)
                values = said.split(", ") if len(names) > 1 else [said]
                for name, value in zip(names, values * len(names), strict=False):
                    yield _full(name, names[0], prefix[1] if prefix else ""), value.strip("`")


def _full(name: str, first: str, prefix: str) -> str:
    """``_PORT`` beside ``LEYDEN_X_HOST`` is ``LEYDEN_X_PORT``."""
    if name.startswith("_"):
        return first.rpartition("_")[0] + name
    return name if name.startswith("LEYDEN_") else prefix + name


def read(said: str) -> Any:
    """A default as a table writes it."""
    number, _, unit = said.partition(" ")
    if unit in UNITS:
        return int(number) * UNITS[unit]
    try:
        return json.loads(said)
    except ValueError:
        return {"none": None, "": None}.get(said, said)


DEFAULTS = defaults()
TOLD = [(name, said) for name, said in told() if name in DEFAULTS]


@pytest.mark.parametrize(("name", "said"), TOLD, ids=[name for name, _ in TOLD])
def test_the_default_is_the_class_s(name: str, said: str) -> None:
    """Where there is none, a page may say in words what stands in."""
    default = DEFAULTS[name]
    if (name.removeprefix("LEYDEN_"), said) not in WORDED.items():
        assert read(said) == default or (default is None and " " in said)


def test_every_variable_is_told() -> None:
    text = "".join(page.read_text() for page in PAGES)
    untold = {name for name in DEFAULTS.keys() - {name for name, _ in TOLD} if name not in text}
    assert untold == set()
