"""Tokens give exactly what they say, and only while they are valid."""

import time
from datetime import datetime, tzinfo

import pytest
from pydantic import SecretStr

from leyden_platform import tokens
from leyden_platform.tokens import InvalidToken, RolloutClaims, mint, verify, verify_until
from leyden_schemas import Limits, RolloutAssigned, Sampling, Split, Task

SECRET = SecretStr("s" * 32)
ASSIGNED = RolloutAssigned.fan_out(
    Task(task_id="t", input={}, policy="calculator#latest", sampling=Sampling(temperature=0.5), run="r")
)[0]


def test_claims_survive() -> None:
    claims = RolloutClaims.of(ASSIGNED, attempt=2, traceparent="00-1-2-01")
    assert verify(mint(claims, SECRET, ttl_s=60), SECRET) == claims
    assert (claims.split, claims.policy, claims.sampling.temperature, claims.run) == (
        Split.TRAIN,
        "calculator#latest",
        0.5,
        "r",
    )


def test_a_task_s_limits_are_in_the_token() -> None:
    limits = Limits(max_completions=7, max_tokens=5000)
    task = Task(task_id="t", input={}, policy="calculator", run="r", limits=limits)
    claims = RolloutClaims.of(RolloutAssigned.fan_out(task)[0], attempt=1)
    assert (claims.max_completions, claims.max_tokens) == (7, 5000)
    assert RolloutClaims.of(ASSIGNED, attempt=1).max_tokens is None


def test_a_verification_says_when_it_ends() -> None:
    claims = RolloutClaims.of(ASSIGNED, attempt=1).model_copy(update={"max_tokens": 500})
    before = time.time()
    found, expires_at = verify_until(mint(claims, SECRET, ttl_s=60), SECRET)
    assert found == claims
    assert before + 59 <= expires_at <= time.time() + 60


def test_an_expired_token_says_so() -> None:
    with pytest.raises(InvalidToken, match="expired"):
        verify(mint(RolloutClaims.of(ASSIGNED, 1), SECRET, ttl_s=-60), SECRET)


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken, match="not a valid rollout token"):
        verify(token, SECRET)


def test_another_secret_is_refused() -> None:
    token = mint(RolloutClaims.of(ASSIGNED, 1), SecretStr("t" * 32), ttl_s=60)
    with pytest.raises(InvalidToken):
        verify(token, SECRET)


def test_a_runner_s_clock_may_be_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Ahead":
            return cls.fromtimestamp(time.time() + 120, tz)

    monkeypatch.setattr(tokens, "datetime", Ahead)
    claims = RolloutClaims.of(ASSIGNED, 1)
    assert verify(mint(claims, SECRET, ttl_s=60), SECRET) == claims
