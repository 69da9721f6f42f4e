"""Whether a computed step may change the weights."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Unhealthy(StrEnum):
    """Why a step was skipped: its name is a metric label and is told to the operator."""

    NON_FINITE_LOSS = "non_finite_loss"
    NON_FINITE_GRADIENT = "non_finite_gradient"
    RATIO_EXPLOSION = "ratio_explosion"
    KL_EXPLOSION = "kl_explosion"


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """The furthest from its sampler that a step may be."""

    max_kl: float
    max_ratio: float


def verdict(
    *, loss: float, grad_norm: float, ratio_max: float, kl: float, limits: HealthLimits
) -> Unhealthy | None:
    """Why a step must not be applied, or None when it may. NaN counts as beyond every limit."""
    if not math.isfinite(loss):
        return Unhealthy.NON_FINITE_LOSS
    if not math.isfinite(grad_norm):
        return Unhealthy.NON_FINITE_GRADIENT
    if not ratio_max <= limits.max_ratio:
        return Unhealthy.RATIO_EXPLOSION
    return None if kl <= limits.max_kl else Unhealthy.KL_EXPLOSION
