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


def _arms(*, broadcast: float, by_step: float) -> dict[str, Arm]:
    """``broadcast`` and ``by_step`` are learning rates."""
    return {
        BROADCAST: Arm("grpo", broadcast),
        "grpo+air": Arm("grpo", broadcast, air=1.0),
        "return_to_go+air": Arm({"name": "return_to_go", "gamma": 0.8}, by_step, air=1.0),
        "gigpo": Arm("gigpo", by_step),
        "gigpo+air": Arm({"name": "gigpo", "gamma": 0.6}, by_step, air=1.0),
    }


ARMS: dict[str, dict[str, Arm]] = {
    "dispatch": _arms(broadcast=3e-4, by_step=1e-3),
    "calculator": _arms(broadcast=1e-3, by_step=1e-3),
}
"""By environment and name. On the dispatch broadcast unlearned its tool at 1e-3 (tuning seed)."""
