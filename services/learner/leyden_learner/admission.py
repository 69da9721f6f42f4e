"""Which samples may be trained on: a pure decision, each refusal with a name that becomes a metric label."""

import math
from dataclasses import dataclass
from enum import StrEnum

from leyden_schemas import TrainingSample

LEAST_LOGPROB = -100.0
"""A token of a lower log-probability is never sampled: it would take more than e^100 draws."""


class Drop(StrEnum):
    """Why a sample is not trained on."""

    MALFORMED = "malformed"
    OTHER_POLICY = "other_policy"
    OTHER_TENANT = "other_tenant"
    OTHER_RUN = "other_run"
    DUPLICATE = "duplicate"
    ALREADY_TRAINED = "already_trained"
    TOO_STALE = "too_stale"
    UNKNOWN_VERSION = "unknown_version"
    TOKEN_OUT_OF_VOCABULARY = "token_out_of_vocabulary"
    TOO_LONG = "too_long"
    BAD_LOGPROB = "bad_logprob"
    BAD_REWARD = "bad_reward"
    UNHEALTHY_STEP = "unhealthy_step"


@dataclass(frozen=True, slots=True)
class Admission:
    """What this learner accepts, apart from what changes with every step."""

    policy: str
    tenant: str
    run: str
    max_staleness: int
    vocabulary: int
    max_positions: int

    def refuses(self, sample: TrainingSample, version: int) -> Drop | None:
        """Why ``sample`` cannot be used while ``version`` is the newest, or None when it can."""
        return (
            self._belongs_elsewhere(sample)
            or self.too_old(sample, version)
            or self._unusable(sample, version)
        )

    def too_old(self, sample: TrainingSample, version: int) -> Drop | None:
        """Whether its oldest token was sampled more than ``max_staleness`` versions ago."""
        return Drop.TOO_STALE if version - sample.oldest_version > self.max_staleness else None

    def _belongs_elsewhere(self, sample: TrainingSample) -> Drop | None:
        if sample.policy != self.policy:
            return Drop.OTHER_POLICY
        if sample.tenant != self.tenant:
            return Drop.OTHER_TENANT
        return Drop.OTHER_RUN if sample.run != self.run else None

    def _unusable(self, sample: TrainingSample, version: int) -> Drop | None:
        spans = [span for row in sample.rows for span in row.spans]
        if any(span.version > version for span in spans):
            return Drop.UNKNOWN_VERSION
        if any(max(row.token_ids) >= self.vocabulary or min(row.token_ids) < 0 for row in sample.rows):
            return Drop.TOKEN_OUT_OF_VOCABULARY
        if any(len(row.token_ids) > self.max_positions for row in sample.rows):
            return Drop.TOO_LONG
        if any(not _is_logprob(value) for span in spans for value in span.logprobs):
            return Drop.BAD_LOGPROB
        return None if math.isfinite(sample.reward) else Drop.BAD_REWARD


def _is_logprob(value: float) -> bool:
    """Finite, not positive (rounding aside), and of a token that could have been sampled at all."""
    return LEAST_LOGPROB <= value <= 1e-3
