"""Where the line runs between the agent's own failure and nobody's, and what follows an attempt."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import Rollout, make_trajectory
from leyden_runner.outcome import (
    Ending,
    Exited,
    Failure,
    Killed,
    NotExecuted,
    OutOfTime,
    Raised,
    Returned,
    Unusable,
    Verdict,
    judge,
    returned,
)
from leyden_runner.retries import Again, Final, RetryPolicy
from leyden_schemas import Outcome, Topics, decode, encode

OBJECT = "builtins.Exception"


@pytest.mark.parametrize(
    ("ending", "verdict"),
    [
        (Returned({"a": 1}), Verdict(Outcome.SUCCEEDED, output={"a": 1})),
        (Returned(None), Verdict(Outcome.SUCCEEDED)),
        (Raised("ValueError: x"), Verdict(Outcome.AGENT_FAILED, error="ValueError: x")),
        (
            Exited(0),
            Verdict(Outcome.AGENT_FAILED, error="the agent's process exited with status 0 without a result"),
        ),
        (
            Exited(75),
            Verdict(
                Outcome.INFRASTRUCTURE_FAILED,
                error="the agent's process exited with status 75 without a result",
            ),
        ),
        (Killed(9), Verdict(Outcome.AGENT_FAILED, error="the agent's process was killed by signal 9")),
        (Unusable("too long"), Verdict(Outcome.AGENT_FAILED, error="too long")),
        (OutOfTime(1.5), Verdict(Outcome.TIMED_OUT, error="the agent did not finish within 1.5 s")),
        (NotExecuted("why"), Verdict(Outcome.INFRASTRUCTURE_FAILED, error="why")),
    ],
)
def test_endings(ending: Ending, verdict: Verdict) -> None:
    assert judge(ending) == verdict


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


half = st.characters(categories=["Cs"])
outputs = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.text(half),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | half, inner, max_size=3),
)


@given(outputs | st.integers(0, 400).map(nested) | st.integers(0, 4299).map(lambda power: 10**power))
def test_whatever_an_agent_returns_can_be_sent_on_or_is_its_failure(output: object) -> None:
    verdict = judge(returned(output))
    finished = Rollout().finished(verdict.output, outcome=verdict.outcome, error=verdict.error)
    read = decode(Topics.EVENTS, encode(finished))
    assert read.output == verdict.output
    trajectory = make_trajectory(output=verdict.output)
    assert decode(Topics.TRAJECTORIES, encode(trajectory)).output == verdict.output


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (
            Failure(("openai.APITimeoutError", "openai.APIConnectionError", OBJECT)),
            Outcome.INFRASTRUCTURE_FAILED,
        ),
        (Failure(("openai.InternalServerError", OBJECT), 503), Outcome.INFRASTRUCTURE_FAILED),
        (
            Failure(("anthropic.APIConnectionError", "anthropic.APIError", OBJECT)),
            Outcome.INFRASTRUCTURE_FAILED,
        ),
        (Failure(("httpx.ConnectError", "httpx.TransportError", OBJECT)), Outcome.INFRASTRUCTURE_FAILED),
        (Failure(("httpx.HTTPStatusError", OBJECT), 502), Outcome.INFRASTRUCTURE_FAILED),
        (Failure(("httpx.HTTPStatusError", OBJECT), 404), Outcome.AGENT_FAILED),
        (
            Failure(("openai.BadRequestError", "openai.APIStatusError", OBJECT), 400),
            Outcome.AGENT_FAILED,
        ),
        (Failure(("openai.RateLimitError", "openai.APIStatusError", OBJECT), 429), Outcome.AGENT_FAILED),
        (Failure(("mine.APIConnectionError", OBJECT)), Outcome.AGENT_FAILED),
        (Failure(("mine.Error", OBJECT), 503), Outcome.AGENT_FAILED),
    ],
)
def test_who_is_to_blame_for_an_exception(failure: Failure, outcome: Outcome) -> None:
    assert judge(Raised("x", [failure])).outcome is outcome
    assert judge(Raised("x", [Failure((OBJECT,)), failure])).outcome is outcome


def test_pauses_double_up_to_the_longest() -> None:
    policy = RetryPolicy(backoff_s=1.0, backoff_max_s=5.0)
    failed = Outcome.INFRASTRUCTURE_FAILED
    following = [policy.after(failed, failures=n, max_attempts=6) for n in range(6)]
    assert following == [Again(1.0), Again(2.0), Again(4.0), Again(5.0), Again(5.0), Final()]


@given(
    outcome=st.sampled_from([Outcome.SUCCEEDED, Outcome.AGENT_FAILED, Outcome.TIMED_OUT]),
    failures=st.integers(0, 10),
    excused=st.booleans(),
)
def test_what_the_agent_did_is_never_retried(outcome: Outcome, failures: int, excused: bool) -> None:
    assert RetryPolicy().after(outcome, failures=failures, max_attempts=3, excused=excused) == Final()


@given(failures=st.integers(0, 10), max_attempts=st.integers(1, 10))
def test_an_excused_failure_costs_nothing(failures: int, max_attempts: int) -> None:
    following = RetryPolicy().after(
        Outcome.INFRASTRUCTURE_FAILED, failures=failures, max_attempts=max_attempts, excused=True
    )
    assert isinstance(following, Again)
    assert not following.counted
