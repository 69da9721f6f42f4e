"""Which samples are refused, and under which name."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from leyden_learner.admission import Admission, Drop, why_malformed
from leyden_learner.testing import VOCABULARY, make_row, make_sample, make_span
from leyden_schemas import MalformedMessage, Topics, TrainingSample, decode, encode

ADMISSION = Admission(
    policy="tiny", tenant="default", run="default", max_staleness=2, vocabulary=VOCABULARY, max_positions=16
)


def sampled_at(version: int) -> TrainingSample:
    """A sample of two spans, the later one sampled by ``version``."""
    return make_sample(0, make_row([1, 2, 3, 4], make_span(1, [-1.0]), make_span(3, [-1.0], version=version)))


def with_advantage(advantage: float) -> TrainingSample:
    """A sample whose second span was praised, or blamed, so much."""
    return make_sample(
        0, make_row([1, 2, 3, 4], make_span(1, [-1.0]), make_span(3, [-1.0], advantage=advantage))
    )


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
        (with_advantage(1e9), None),
        (with_advantage(1.1e9), Drop.BAD_ADVANTAGE),
        (with_advantage(-1.1e9), Drop.BAD_ADVANTAGE),
        (with_advantage(1e39), Drop.BAD_ADVANTAGE),
        (with_advantage(1e300), Drop.BAD_ADVANTAGE),
        (make_sample(reward=1e30), None),
        (make_sample(reward=-1e31), Drop.BAD_REWARD),
        (make_sample(reward=float("nan")), Drop.BAD_REWARD),
    ],
)
def test_refusals(sample: TrainingSample, reason: Drop | None) -> None:
    assert ADMISSION.refuses(sample, version=2) is reason


def test_staleness_counts_from_the_oldest_token() -> None:
    assert ADMISSION.refuses(sampled_at(2), version=2) is None
    assert ADMISSION.refuses(sampled_at(2), version=3) is Drop.TOO_STALE
    assert ADMISSION.too_old(sampled_at(2), version=3) is Drop.TOO_STALE


def spoil(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A sample's bytes after a change that makes them none."""
    message = json.loads(encode(make_sample()))
    change(message)
    return json.dumps(message).encode()


def span_of(message: dict[str, Any]) -> dict[str, Any]:
    """Its first span."""
    span: dict[str, Any] = message["rows"][0]["spans"][0]
    return span


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"not json", Drop.MALFORMED),
        (b"\xff\xfe", Drop.MALFORMED),
        (b"[]", Drop.MALFORMED),
        (b'{"policy": "tiny"}', Drop.MALFORMED),
        (None, Drop.MALFORMED),
        (spoil(lambda m: m.pop("rollout_id")), Drop.MALFORMED),
        (spoil(lambda m: span_of(m).update(start=7)), Drop.WRONG_LENGTHS),
        (spoil(lambda m: span_of(m).update(logprobs=[-1.0] * 99)), Drop.WRONG_LENGTHS),
        (spoil(lambda m: m["rows"][0]["spans"].append(span_of(m))), Drop.WRONG_LENGTHS),
        (spoil(lambda m: span_of(m).pop("logprobs")), Drop.MISSING_LOGPROBS),
        (spoil(lambda m: span_of(m).update(logprobs=[])), Drop.MISSING_LOGPROBS),
        (spoil(lambda m: span_of(m).update(logprobs=None)), Drop.MISSING_LOGPROBS),
        (spoil(lambda m: span_of(m).update(logprobs=[-1.0, None, -1.0])), Drop.MISSING_LOGPROBS),
        (spoil(lambda m: span_of(m).update(logprobs=[-1.0, float("nan")])), Drop.BAD_LOGPROB),
        (spoil(lambda m: span_of(m).update(advantage=float("nan"))), Drop.BAD_ADVANTAGE),
        (spoil(lambda m: span_of(m).update(advantage=float("-inf"))), Drop.BAD_ADVANTAGE),
        (spoil(lambda m: span_of(m).update(advantage="high")), Drop.MALFORMED),
        (spoil(lambda m: m.update(rows=[])), Drop.EMPTY_ROWS),
        (spoil(lambda m: m.pop("rows")), Drop.EMPTY_ROWS),
        (spoil(lambda m: m["rows"][0].update(token_ids=[])), Drop.EMPTY_ROWS),
        (spoil(lambda m: m["rows"][0].update(spans=[])), Drop.EMPTY_ROWS),
    ],
)
def test_what_is_no_sample_is_refused_under_the_name_of_what_is_wrong(
    value: bytes | None, reason: Drop
) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(Topics.SAMPLES, value)
    assert why_malformed(caught.value) is reason
