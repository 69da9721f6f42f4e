"""Whose turn it is to change weights."""

import pytest

from leyden_inference.vllm.turns import PeerState, decide, own_place

OLD, NEW = PeerState(frozenset({"p@1"})), PeerState(frozenset({"p@2"}))
EMPTY, REFUSED = PeerState(), PeerState(frozenset({"p@1"}), frozenset({"p@2"}))
AT_IT = PeerState(frozenset({"p@1"}), intends="p@2")


@pytest.mark.parametrize(
    ("before", "after", "spare", "decision"),
    [
        ([], [OLD], False, "go"),
        ([], [EMPTY], False, "wait"),
        ([], [None], False, "wait"),
        ([], [None], True, "go"),
        ([], [AT_IT], False, "wait"),
        ([AT_IT], [OLD], False, "withdraw"),
        ([OLD], [NEW], False, "withdraw"),
        ([NEW], [OLD], False, "go"),
        ([REFUSED], [], False, "go"),
        ([None], [OLD], False, "go"),
        ([NEW], [AT_IT], False, "wait"),
    ],
)
def test_decisions(
    before: list[PeerState | None], after: list[PeerState | None], spare: bool, decision: str
) -> None:
    assert decide("p@2", before, after, spare=spare) == decision


def test_of_two_that_intend_something_exactly_one_goes_on() -> None:
    first = decide("p@2", [], [PeerState(OLD.serving, intends="p@2")], spare=False)
    second = decide("p@2", [PeerState(NEW.serving, intends="p@3")], [], spare=False)
    assert (first, second) == ("wait", "withdraw")


def test_a_replica_knows_its_place_by_its_host_name() -> None:
    peers = ["http://inference-0.inference:8001", "http://inference-1.inference:8001"]
    assert own_place(peers, None, "inference-1") == 1
    assert own_place(peers, None, "elsewhere") is None
    assert own_place(peers, 0, "inference-1") == 0
    assert own_place(peers, 5) is None


def test_states_survive_the_wire() -> None:
    assert PeerState.of(AT_IT.as_json()) == AT_IT
    with pytest.raises(ValueError, match="not the state of a replica"):
        PeerState.of({"serving": []})
