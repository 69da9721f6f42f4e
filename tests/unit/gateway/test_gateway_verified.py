"""The short memory of verified tokens."""

import pytest

from leyden_gateway.attribution.verified import ENTRIES, FRESH_S, RecentlyVerified
from leyden_platform.tokens import InvalidToken, RolloutClaims
from leyden_schemas import Sampling, Split, new_id


class Verifier:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.time = 0.0

    def __call__(self, token: str) -> RolloutClaims:
        self.asked.append(token)
        if token == "forged":
            raise InvalidToken("forged")
        return RolloutClaims(
            rollout_id=new_id(),
            attempt=1,
            tenant="default",
            run="default",
            policy="calculator",
            split=Split.TRAIN,
            sampling=Sampling(),
            max_completions=1,
        )

    def now(self) -> float:
        return self.time


def test_a_verification_holds_for_a_moment() -> None:
    verifier = Verifier()
    verified = RecentlyVerified(verifier, verifier.now)
    first = verified("a")
    verifier.time = FRESH_S - 0.1
    assert verified("a") is first
    verifier.time = FRESH_S
    assert verified("a") is not first
    assert verifier.asked == ["a", "a"]


def test_failures_are_not_remembered() -> None:
    verifier = Verifier()
    verified = RecentlyVerified(verifier, verifier.now)
    for _ in range(2):
        with pytest.raises(InvalidToken):
            verified("forged")
    assert len(verifier.asked) == 2


def test_memory_is_bounded() -> None:
    verifier = Verifier()
    verified = RecentlyVerified(verifier, verifier.now)
    for number in range(ENTRIES + 1):
        verified(str(number))
    verified("0")
    assert verifier.asked[-1] == "0"
