"""What a replay scores and credits with: the services' own settings, changed where the user says so."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, JsonValue

from leyden_credit.estimators import Choice
from leyden_credit.settings import CreditSettings
from leyden_platform.settings import ServiceSettings
from leyden_replay.roster import RewardChange
from leyden_reward.session_settings import SessionSettings
from leyden_reward.settings import RewardSettings
from leyden_schemas import RewardSpec
from leyden_schemas.rewards import LIBRARY, leaves

_NO_DEFINITION = {
    "kafka",
    "ops",
    "log",
    "drain_timeout_s",
    "group",
    "workers",
    "startup_s",
    "max_pending",
    "remember",
}
"""Settings that change how the services run, and not what they find."""


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class UnknownReward(ValueError):
    """No reward has this name, or it does not take these parameters."""


class Changes(BaseModel):
    """What is to be different from the services' settings; None and empty change nothing."""

    reward: str | None = Field(default=None, description="A name, or module:function.")
    params: dict[str, JsonValue] | None = None
    path: list[Path] = []
    air_cap: float | None = None
    air_weights: dict[str, float] | None = None
    estimator: Choice | None = None
    air_weight: float | None = None


@dataclass(frozen=True, slots=True)
class Definitions:
    """Settings of both services, and the reward that takes the place of the tasks' own."""

    reward: RewardSettings
    credit: CreditSettings
    change: RewardChange | None

    @property
    def digest(self) -> str:
        """Equal for definitions that find the same; the source of the user's functions is part of it."""
        text = json.dumps(
            {
                "leyden": version("leyden"),
                "reward": _dumped(self.reward, "catalogue"),
                "credit": _dumped(self.credit),
                "functions": self.functions,
                "change": None if self.change is None else [self.change.name, self.change.params],
            },
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def functions(self) -> dict[str, str]:
        """The user's functions by what they are for, each with a digest of the file it is in."""
        catalogue = self.reward.catalogue
        return {
            f"{kind} {name}": f"{target}#{source_digest(target, catalogue.path)}"
            for kind, targets in catalogue.model_dump(exclude={"path"}).items()
            for name, target in targets.items()
        }

    @property
    def text(self) -> dict[str, str]:
        """For people."""
        estimators = {"*": self.credit.estimator, **self.credit.estimators}
        reward = "each task's own"
        if self.change:
            own = "each task's own" if self.change.params is None else json.dumps(self.change.params)
            reward = f"{self.change.name}, params: {own}"
        return {
            "reward": reward,
            "air_cap": f"{self.reward.air_cap:g}",
            "air_weights": json.dumps(self.reward.air_weights),
            "estimator": json.dumps(self.credit.estimator if len(estimators) == 1 else estimators),
            "air_weight": f"{self.credit.air_weight:g}",
        }


def definitions(changes: Changes, **shared: Any) -> Definitions:
    """The services' settings from the environment, with ``changes`` and what both share.

    Raises ``UnknownReward``, and ``ValidationError`` for settings that no service would start with.
    """
    base = RewardSettings(**shared)
    rewards = dict(base.catalogue.rewards)
    if changes.reward and ":" in changes.reward:
        rewards[changes.reward] = changes.reward
    path = [*(str(folder.resolve()) for folder in changes.path), *base.catalogue.path]
    change = _change(changes, rewards)
    reward = {
        "catalogue": base.catalogue.model_copy(update={"path": path, "rewards": rewards}),
        "air_cap": changes.air_cap,
        "air_weights": changes.air_weights,
    }
    credit = {
        "estimator": changes.estimator,
        "estimators": None if changes.estimator is None else {},
        "air_weight": changes.air_weight,
    }
    scored = _changed(base, reward)
    if change:
        scored = scored.model_copy(update={"sessions": _with_reward(scored.sessions, change)})
    return Definitions(scored, _changed(CreditSettings(**shared), credit), change)


def _with_reward(sessions: SessionSettings, change: RewardChange) -> SessionSettings:
    """Unchecked, because what suits tasks need not suit sessions; those are excluded then, as tasks are."""
    return sessions.model_copy(update={"session_reward": change.of(sessions.session_reward)})


def _changed(settings: SettingsT, changes: Mapping[str, Any]) -> SettingsT:
    """The settings with other values, checked, where a change is not None.

    Values given beside an environment are merged into its dictionaries; here they are to take their place.
    """
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    given = {name: value for name, value in changes.items() if value is not None}
    return type(settings)(_env_prefix="LEYDEN_NOT_FROM_THE_ENVIRONMENT_", **values | given)


def _change(changes: Changes, rewards: Mapping[str, str]) -> RewardChange | None:
    if changes.reward is None:
        if changes.params is not None:
            raise UnknownReward("--params are those of --reward, which is missing")
        return None
    own = changes.reward in rewards
    if not own and changes.reward not in LIBRARY:
        raise UnknownReward(
            f"no reward is named {changes.reward!r}; there are {', '.join(sorted({*LIBRARY, *rewards}))}, "
            "and yours as module:function (with --path, if it is not installed)"
        )
    try:
        spec = RewardSpec(name=changes.reward, params=changes.params or {})
        if changes.params is not None and not own:
            for _part in leaves(spec, set(rewards)):
                pass
    except ValueError as error:
        raise UnknownReward(f"--reward {changes.reward}: {error}") from None
    return RewardChange(changes.reward, changes.params, own=own)


def source_digest(target: str, path: Sequence[str]) -> str:
    """A digest of the file of ``module:function``, found without importing it; ``unknown`` if not found."""
    search, name, file = [*path, *sys.path], "", None
    for part in target.partition(":")[0].split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, search)
        if spec is None:
            return "unknown"
        search, file = list(spec.submodule_search_locations or []), spec.origin
    if file is None or not Path(file).is_file():
        return "unknown"
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]


def _dumped(settings: BaseModel, *more: str) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude={*_NO_DEFINITION, *more})
