"""The short memory of verified tokens."""

import pytest

from leyden_gateway.attribution.verified import ENTRIES, FRESH_S, RecentlyVerified
from leyden_platform.tokens import InvalidToken, RolloutClaims, Verified
from leyden_schemas import Sampling, Split, new_id

EPOCH = 1_700_000_000.0


class Verifier:
    """Tokens expire at ``expires_at``; both clocks are ``time`` seconds on."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.time = 0.0
        self.expires_at = EPOCH + 3600

    def __call__(self, token: str) -> Verified:
        self.asked.append(token)
        if token == "forged":
            raise InvalidToken("forged")
        claims = RolloutClaims(
            rollout_id=new_id(),
            attempt=1,
            tenant="default",
            run="default",
            policy="calculator",
            split=Split.TRAIN,
            sampling=Sampling(),
            max_completions=1,
        )
        return Verified(claims, self.expires_at)

    def recently(self) -> RecentlyVerified:
        return RecentlyVerified(self, lambda: self.time, lambda: EPOCH + self.time)


def test_a_verification_holds_for_a_while() -> None:
    verifier = Verifier()
    verified = verifier.recently()
    first = verified(b"a")
    verifier.time = FRESH_S - 0.1
    assert verified(b"a") is first
    verifier.time = FRESH_S
    assert verified(b"a") is not first
    assert verifier.asked == ["a", "a"]


def test_a_verification_ends_with_its_token() -> None:
    verifier = Verifier()
    verified = verifier.recently()
    verifier.expires_at = EPOCH + 10
    first = verified(b"a")
    verifier.time = 9.9
    assert verified(b"a") is first
    verifier.time = 10.0
    verified(b"a")
    assert verifier.asked == ["a", "a"]


def test_a_token_in_its_leeway_is_not_remembered() -> None:
    verifier = Verifier()
    verified = verifier.recently()
    verifier.expires_at = EPOCH - 1
    verified(b"a")
    verified(b"a")
    assert verifier.asked == ["a", "a"]


def test_failures_are_not_remembered() -> None:
    verifier = Verifier()
    verified = verifier.recently()
    for _ in range(2):
        with pytest.raises(InvalidToken):
            verified(b"forged")
    assert len(verifier.asked) == 2


def test_memory_is_bounded() -> None:
    verifier = Verifier()
    verified = verifier.recently()
    for number in range(ENTRIES + 1):
        verified(str(number).encode())
    verified(b"0")
    assert verifier.asked[-1] == "0"


def test_a_token_of_any_bytes_is_only_invalid() -> None:
    verifier = Verifier()
    verifier.recently()(b"\xff.\x00.\xfe")
    assert verifier.asked == ["\xff.\x00.\xfe"]
