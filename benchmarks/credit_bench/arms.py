"""What is compared: estimators with their settings and learning rates."""

from dataclasses import dataclass, replace

from leyden_credit.estimators import Choice

BROADCAST = "grpo"
STEP_LEVEL = ("return_to_go+air", "gigpo", "gigpo+air")
RATES = (3e-4, 1e-3)
"""Learning rates that are tried for every arm."""


@dataclass(frozen=True)
class Arm:
    """A way to give credit; ``air`` is LEYDEN_CREDIT_AIR_WEIGHT. AIR's rules and bounds are the defaults."""

    estimator: Choice
    lr: float
    air: float = 0.0

    def at(self, lr: float) -> "Arm":
        """The same with another learning rate."""
        return replace(self, lr=lr)


def _arms(lr: float) -> dict[str, Arm]:
    return {
        BROADCAST: Arm("grpo", lr),
        "grpo+air": Arm("grpo", lr, air=1.0),
        "return_to_go+air": Arm({"name": "return_to_go", "gamma": 0.8}, lr, air=1.0),
        "gigpo": Arm("gigpo", lr),
        "gigpo+air": Arm({"name": "gigpo", "gamma": 0.5, "w": 3.0, "scale": "std"}, lr, air=1.0),
    }


ARMS: dict[str, dict[str, Arm]] = {"dispatch": _arms(1e-3), "calculator": _arms(1e-3)}
"""By environment and name. docs/benchmarks.md says how rates were chosen."""
