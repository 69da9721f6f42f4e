"""Which samples are refused, and under which name."""

import pytest

from leyden_learner.admission import Admission, Drop
from leyden_learner.testing import VOCABULARY, make_row, make_sample, make_span
from leyden_schemas import TrainingSample

ADMISSION = Admission(
    policy="tiny", tenant="default", run="default", max_staleness=2, vocabulary=VOCABULARY, max_positions=16
)


def sampled_at(version: int) -> TrainingSample:
    """A sample of two spans, the later one sampled by ``version``."""
    return make_sample(0, make_row([1, 2, 3, 4], make_span(1, [-1.0]), make_span(3, [-1.0], version=version)))


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (make_sample(), None),
        (make_sample(policy="other"), Drop.OTHER_POLICY),
        (make_sample(tenant="other"), Drop.OTHER_TENANT),
        (make_sample(run="other"), Drop.OTHER_RUN),
        (sampled_at(3), Drop.UNKNOWN_VERSION),
        (make_sample(0, make_row([1, VOCABULARY], make_span(1, [-1.0]))), Drop.TOKEN_OUT_OF_VOCABULARY),
        (make_sample(0, make_row([-1, 1], make_span(1, [-1.0]))), Drop.TOKEN_OUT_OF_VOCABULARY),
        (make_sample(0, make_row([1] * 17, make_span(1, [-1.0]))), Drop.TOO_LONG),
        (make_sample(0, make_row([1, 2], make_span(1, [0.5]))), Drop.BAD_LOGPROB),
        (make_sample(0, make_row([1, 2], make_span(1, [-1e30]))), Drop.BAD_LOGPROB),
        (make_sample(reward=float("nan")), Drop.BAD_REWARD),
    ],
)
def test_refusals(sample: TrainingSample, reason: Drop | None) -> None:
    assert ADMISSION.refuses(sample, version=2) is reason


def test_staleness_counts_from_the_oldest_token() -> None:
    assert ADMISSION.refuses(sampled_at(2), version=2) is None
    assert ADMISSION.refuses(sampled_at(2), version=3) is Drop.TOO_STALE
    assert ADMISSION.too_old(sampled_at(2), version=3) is Drop.TOO_STALE
