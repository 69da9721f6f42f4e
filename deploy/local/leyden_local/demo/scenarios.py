"""What the demo can show: a model, an agent, its tasks and reward, and the settings that suit them."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leyden_local.config import StackConfig
from leyden_local.demo.log import DemoFailed
from leyden_local.demo.options import RUN, DemoOptions
from leyden_local.models import smollm2
from leyden_local.processor import multiplies_bf16

Say = Callable[[str], None]

_BF16 = {f"LEYDEN_{service}_PRECISION": "bf16" for service in ("LEARNER", "INFERENCE")}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to show: an example, a package with ``agent``, ``tasks`` and ``reward``, and what it trains.

    The policy has the example's name. ``options`` replace defaults of ``DemoOptions``; ``settings`` are given
    to every service.
    """

    example: str
    model: Callable[[Path, Say], Path]
    """The Hugging Face folder to begin with, from the examples' folder; says what it does meanwhile."""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    bf16: bool = False
    """Whether to compute in bf16 where the processor does that fast."""

    def choose(self, **given: Any) -> DemoOptions:
        """The options of a run; what is given counts, and None is not given."""
        chosen = {name: value for name, value in given.items() if value is not None}
        precision = _BF16 if self.bf16 and multiplies_bf16() else {}
        settings = self.settings | precision | chosen.get("settings", {})
        return DemoOptions(**{**self.options, **chosen, "settings": settings})

    def tasks(self, options: DemoOptions) -> Any:
        """The example's task generator. Raises ``DemoFailed``, also when it has too few for the options."""
        if str(options.examples) not in sys.path:
            sys.path.insert(0, str(options.examples))
        try:
            module = importlib.import_module(f"{self.example}.tasks")
        except ModuleNotFoundError as error:
            raise DemoFailed(
                f"{self.example}.tasks cannot be imported from {options.examples}: {error}; run the demo in "
                "a clone of the repository, or name its examples folder with --examples"
            ) from error
        if options.heldout > (most := module.MOST["heldout"]):
            raise DemoFailed(f"--heldout {options.heldout}: there are at most {most} held-out tasks")
        return module

    def stack(self, options: DemoOptions, directory: Path, model: Path) -> StackConfig:
        """The stack that trains it."""
        return StackConfig(
            directory=directory,
            policy=self.example,
            model=model,
            agents={"default": {"callable": f"{self.example}.agent:solve"}},
            rewards={self.example: f"{self.example}.reward:reward"},
            path=[options.examples],
            run=RUN,
            settings=options.service_settings(),
            start_timeout_s=options.start_timeout_s,
        )


def shipped_seed(example: str) -> Callable[[Path, Say], Path]:
    """The seed model that lies beside an example."""

    def find(examples: Path, _say: Say) -> Path:
        folder = examples / example / "seed"
        if not (folder / "config.json").is_file():
            raise DemoFailed(
                f"{folder} is missing: run the demo in a clone of the repository, "
                "or name its examples folder with --examples"
            )
        return folder

    return find


def converted_smollm2(_examples: Path, say: Say) -> Path:
    """SmolLM2-135M-Instruct, converted when this is the first time."""
    try:
        return smollm2.prepare(say)
    except smollm2.ModelUnavailable as error:
        raise DemoFailed(str(error)) from error


SCENARIOS = {
    "seed": Scenario(example="calculator", model=shipped_seed("calculator")),
    "smollm2": Scenario(
        example="reasoning",
        model=converted_smollm2,
        options={
            "steps": 24,
            "batch_rollouts": 64,
            "batch_timeout_s": 30.0,
            "staleness": 1,
            "lr": 5e-4,
            "concurrency": 32,
            "rollout_timeout_s": 300.0,
            "train_timeout_s": 4 * 3600.0,
            "evaluation_timeout_s": 1800.0,
        },
        settings={
            "LEYDEN_LEARNER_LORA_RANK": "16",
            "LEYDEN_LEARNER_MICRO_BATCH_TOKENS": "2048",
            "LEYDEN_LEARNER_KEEP_WEIGHTS": "3",
            "LEYDEN_LEARNER_KEEP_TRAINER_STATES": "1",
            "LEYDEN_INFERENCE_CONTEXT": "256",
            "LEYDEN_INFERENCE_PREFIX_CACHE_TOKENS": "4096",
            "LEYDEN_INFERENCE_LINGER_S": "3",
        },
        bf16=True,
    ),
}
"""By the name that ``leyden demo --model`` takes."""
