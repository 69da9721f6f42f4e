"""docs/reward.md names every setting, every reward with its parameters, every reason and every metric."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from pydantic_settings import BaseSettings

from leyden_reward import metrics
from leyden_reward.ranking.ranking import LATE
from leyden_reward.rewards.verdict import Reason
from leyden_reward.settings import RewardSettings
from leyden_schemas.rewards import LIBRARY

PAGE = (Path(__file__).parents[3] / "docs/reward.md").read_text()
ROWS = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]


def settings(model: type[BaseSettings]) -> Iterator[str]:
    """Every variable of the service's own."""
    prefix = str(model.model_config.get("env_prefix", ""))
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
            yield from settings(field.annotation)
        elif prefix.startswith("LEYDEN_REWARD_"):
            yield f"{prefix}{field.validation_alias or name}".upper()


@pytest.mark.parametrize("name", sorted(settings(RewardSettings)))
def test_every_setting_is_listed(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", LIBRARY)
def test_every_reward_is_listed_with_its_parameters(name: str) -> None:
    (row,) = [cells for cells in ROWS if cells[0] == f"| `{name}`" and len(cells) == 3]
    for parameter, field in LIBRARY[name].model_fields.items():
        assert f"`{field.alias or parameter}`" in " ".join(row)


@pytest.mark.parametrize("reason", [*Reason, LATE])
def test_every_reason_is_listed(reason: str) -> None:
    assert re.search(rf"^\| [^|]*`{reason}`", PAGE, re.MULTILINE)


def test_every_metric_is_listed() -> None:
    ours = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in REGISTRY.collect()
        if family.name.startswith("leyden_reward_")
    }
    assert metrics.EVENTS is not None
    assert {name for name in ours if f"`{name}`" not in PAGE} == set()
