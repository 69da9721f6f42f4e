"""What a recipe consists of."""

from dataclasses import dataclass
from typing import Literal

Loss = Literal["ppo_clip", "gspo", "cispo"]
Aggregation = Literal["rollout", "token", "sequence", "fixed_length"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Defaults of the settings of the same names."""

    loss: Loss
    aggregation: Aggregation
    clip_low: float
    clip_high: float
    dual_clip: float = 3.0
