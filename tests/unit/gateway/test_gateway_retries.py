"""Which earlier completion a call repeats."""

from uuid import UUID

from leyden_gateway.attribution.named import Source
from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.recording.retries import Retries

IDS = [UUID(int=number) for number in range(10)]
ROLLOUT = Attribution(UUID(int=100), 2, rollout_from=Source.TOKEN)
OTHER = Attribution(UUID(int=101), 2, rollout_from=Source.TOKEN)


def tries(count: int) -> dict[bytes, bytes]:
    return {b"x-stainless-retry-count": str(count).encode()}


def test_each_try_names_the_one_before() -> None:
    retries = Retries()
    found = [retries.link(ROLLOUT, tries(count), b"{}", IDS[count]) for count in range(3)]
    assert found == [None, IDS[0], IDS[1]]


def test_equal_calls_are_no_retries_of_each_other() -> None:
    retries = Retries()
    assert [retries.link(ROLLOUT, tries(0), b"{}", number) for number in IDS[:3]] == [None, None, None]
    assert retries.link(ROLLOUT, tries(1), b"{}", IDS[3]) == IDS[2]


def test_another_body_rollout_or_attempt_is_another_call() -> None:
    retries = Retries()
    retries.link(ROLLOUT, tries(0), b"{}", IDS[0])
    assert retries.link(ROLLOUT, tries(1), b"{ }", IDS[1]) is None
    assert retries.link(OTHER, tries(1), b"{}", IDS[2]) is None
    assert retries.link(ROLLOUT._replace(attempt=3), tries(1), b"{}", IDS[3]) is None


def test_an_idempotency_key_names_the_call() -> None:
    retries = Retries()
    assert retries.link(ROLLOUT, {b"idempotency-key": b"k"}, b"{}", IDS[0]) is None
    assert retries.link(ROLLOUT, {b"idempotency-key": b"k"} | tries(0), b"{ }", IDS[1]) == IDS[0]
    assert retries.link(ROLLOUT, {b"idempotency-key": b"l"}, b"{}", IDS[2]) is None


def test_clients_that_never_say_are_not_remembered() -> None:
    retries = Retries()
    assert retries.link(ROLLOUT, {}, b"{}", IDS[0]) is None
    assert retries.link(ROLLOUT, tries(1), b"{}", IDS[1]) is None


def test_calls_that_are_their_own_sessions_are_known_by_who_calls() -> None:
    def own(number: int, key: str) -> Attribution:
        return Attribution(UUID(int=200 + number), tenant="shop", key=key)

    retries = Retries()
    retries.link(own(0, "web"), tries(0), b"{}", IDS[0])
    assert retries.link(own(1, "app"), tries(1), b"{}", IDS[1]) is None
    assert retries.link(own(2, "web"), tries(1), b"{}", IDS[2]) == IDS[0]


def test_a_count_that_is_no_number_still_means_again() -> None:
    retries = Retries()
    retries.link(ROLLOUT, {b"x-stainless-retry-count": b""}, b"{}", IDS[0])
    assert retries.link(ROLLOUT, {b"x-stainless-retry-count": b" 1 "}, b"{}", IDS[1]) == IDS[0]


def test_memory_is_bounded() -> None:
    retries = Retries(entries=2)
    for number in range(3):
        retries.link(ROLLOUT, tries(0), str(number).encode(), IDS[number])
    assert retries.link(ROLLOUT, tries(1), b"0", IDS[3]) is None
    assert retries.link(ROLLOUT, tries(1), b"2", IDS[4]) == IDS[2]
