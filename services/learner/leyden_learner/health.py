"""Whether a computed step may change the weights, and whether training should go on."""

import math
import statistics
from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class Unhealthy(StrEnum):
    """Why a step was skipped: its name is a metric label and is told to the operator."""

    NON_FINITE_LOSS = "non_finite_loss"
    NON_FINITE_GRADIENT = "non_finite_gradient"
    NON_FINITE_WEIGHTS = "non_finite_weights"
    RATIO_EXPLOSION = "ratio_explosion"
    KL_EXPLOSION = "kl_explosion"
    ENTROPY_COLLAPSE = "entropy_collapse"
    REWARD_COLLAPSE = "reward_collapse"


class NonFiniteWeights(RuntimeError):
    """Weights, or what they answer, hold NaN or infinity: they are not saved, nobody could serve them."""


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


@dataclass(frozen=True, slots=True)
class CollapseLimits:
    """When training no longer leads anywhere. 0 turns a guard off."""

    min_entropy: float
    """Nats per sampled token, averaged over the window."""
    max_reward_drop: float
    """Share that may be lost of what the mean reward has gained since the first window."""
    window: int
    """Steps of a window."""


class CollapseWatch:
    """Looks at the steps of a run, one after the other, for entropy or reward that is gone for good.

    Single steps vary, so means over ``window`` steps in a row are compared. It begins anew with the process.
    """

    def __init__(self, limits: CollapseLimits) -> None:
        self._limits = limits
        self._entropies: deque[float] = deque(maxlen=limits.window)
        self._rewards: deque[float] = deque(maxlen=limits.window)
        self._best, self._first = -math.inf, math.nan

    def see(self, *, entropy: float, reward: float) -> Unhealthy | None:
        """Why training should pause after this step, or None."""
        self._entropies.append(entropy)
        self._rewards.append(reward)
        if len(self._rewards) < self._limits.window:
            return None
        if statistics.fmean(self._entropies) < self._limits.min_entropy:
            return Unhealthy.ENTROPY_COLLAPSE
        return self._reward_lost(statistics.fmean(self._rewards))

    def _reward_lost(self, mean: float) -> Unhealthy | None:
        """The gain since the first window is what can be lost: rewards have no zero of their own."""
        if math.isnan(self._first):
            self._first = mean
        self._best = max(self._best, mean)
        gained, allowed = self._best - self._first, self._limits.max_reward_drop
        if not allowed or gained <= 0:
            return None
        return Unhealthy.REWARD_COLLAPSE if self._best - mean >= allowed * gained else None
