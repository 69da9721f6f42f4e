"""Which samples may be trained on: a pure decision, each refusal with a name that becomes a metric label."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from leyden_schemas import MalformedMessage, TrainingSample

LEAST_LOGPROB = -100.0
"""A token of a lower log-probability is never sampled: it would take more than e^100 draws."""

LARGEST_ADVANTAGE = 1e9
"""Of either sign. Beyond it, times a ratio as large as health guards allow and squared for a gradient's norm,
it leaves fp32, and one sample would cost the whole step."""

LARGEST_REWARD = 1e30
"""Of either sign: metrics add rewards up."""


class Drop(StrEnum):
    """Why a sample is not trained on."""

    MALFORMED = "malformed"
    WRONG_LENGTHS = "wrong_lengths"
    MISSING_LOGPROBS = "missing_logprobs"
    EMPTY_ROWS = "empty_rows"
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
    BAD_ADVANTAGE = "bad_advantage"
    BAD_REWARD = "bad_reward"
    UNHEALTHY_STEP = "unhealthy_step"


class Owner(Protocol):
    """Whose a sample is."""

    @property
    def policy(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def run(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Admission:
    """What this learner accepts, apart from what changes with every step."""

    policy: str
    tenant: str
    run: str
    max_staleness: int
    vocabulary: int
    max_positions: int

    def belongs_elsewhere(self, owner: Owner) -> Drop | None:
        """Whether it is another learner's."""
        if owner.policy != self.policy:
            return Drop.OTHER_POLICY
        if owner.tenant != self.tenant:
            return Drop.OTHER_TENANT
        return Drop.OTHER_RUN if owner.run != self.run else None

    def refuses(self, sample: TrainingSample, version: int) -> Drop | None:
        """Why ``sample`` cannot be used while ``version`` is the newest, or None when it can."""
        return (
            self.belongs_elsewhere(sample) or self.too_old(sample, version) or self._unusable(sample, version)
        )

    def too_old(self, sample: TrainingSample, version: int) -> Drop | None:
        """Whether its oldest token was sampled more than ``max_staleness`` versions ago."""
        return Drop.TOO_STALE if version - sample.oldest_version > self.max_staleness else None

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
        if any(not _within(LARGEST_ADVANTAGE, span.advantage) for span in spans):
            return Drop.BAD_ADVANTAGE
        return None if _within(LARGEST_REWARD, sample.reward) else Drop.BAD_REWARD


def _is_logprob(value: float) -> bool:
    """Finite, not positive (rounding aside), and of a token that could have been sampled at all."""
    return LEAST_LOGPROB <= value <= 1e-3


def _within(largest: float, value: float) -> bool:
    """Not a NaN, and no larger."""
    return abs(value) <= largest


def why_malformed(error: MalformedMessage) -> Drop:
    """The name of what is wrong with bytes that are no sample; the error's text has the details."""
    if not all(path.startswith("rows") for path, _ in error.problems):
        return Drop.MALFORMED
    for path, kind in error.problems:
        field = path.rstrip("0123456789.").rsplit(".", 1)[-1]
        match field, kind:
            case "logprobs", "finite_number":
                return Drop.BAD_LOGPROB
            case "advantage", "finite_number":
                return Drop.BAD_ADVANTAGE
            case "logprobs", _:
                return Drop.MISSING_LOGPROBS
            case "rows" | "token_ids" | "spans", "missing" | "too_short":
                return Drop.EMPTY_ROWS
            case _, "value_error":
                return Drop.WRONG_LENGTHS
    return Drop.MALFORMED
