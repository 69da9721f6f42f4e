"""What is compared: estimators with their settings, each at the learning rate that was best for it."""

from dataclasses import dataclass, replace

from leyden_credit.estimators import Choice

BROADCAST = "grpo"
STEP_LEVEL = ("return_to_go+air", "gigpo", "gigpo+air")
RATES = (1e-3, 2e-3)
"""Learning rates that are tried for every arm."""


@dataclass(frozen=True)
class Arm:
    """A way to give credit; ``air`` is LEYDEN_CREDIT_AIR_WEIGHT. AIR's rules and bounds are the defaults."""

    estimator: Choice
    lr: float = 2e-3
    air: float = 0.0

    def at(self, lr: float) -> "Arm":
        """The same with another learning rate."""
        return replace(self, lr=lr)


def _arms() -> dict[str, Arm]:
    return {
        BROADCAST: Arm("grpo"),
        "grpo+air": Arm("grpo", air=1.0),
        "return_to_go+air": Arm({"name": "return_to_go", "gamma": 0.8}, air=1.0),
        "gigpo": Arm("gigpo"),
        "gigpo+air": Arm({"name": "gigpo", "gamma": 0.6}, air=1.0),
    }


ARMS: dict[str, dict[str, Arm]] = {"dispatch": _arms(), "calculator": _arms()}
"""By environment and name. The rates are those of ``benchmarks/credit.py --tune``."""
