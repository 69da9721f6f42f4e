"""Which version and which replica: worked examples, and what rendezvous hashing promises."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_fakes import moved, published

from leyden_gateway.routing.breaker import Rules
from leyden_gateway.routing.choice import (
    Choice,
    Exact,
    PolicyTable,
    ReplicaState,
    Target,
    Unknown,
    UpTo,
    best,
)
from leyden_gateway.routing.lane import Lane
from leyden_gateway.routing.plan import candidates, least_loaded, preferred
from leyden_schemas import AliasMoved, ModelPublished


def table(*events: ModelPublished | AliasMoved) -> PolicyTable:
    known = PolicyTable()
    for event in events:
        known.apply(event)
    return known


def replica(url: str, *models: str, healthy: bool = True) -> ReplicaState:
    return ReplicaState(url, healthy, frozenset(models))


@pytest.mark.parametrize(
    ("ref", "target"),
    [
        ("calculator", UpTo("calculator", 1)),
        ("calculator#serving", UpTo("calculator", 1)),
        ("calculator#latest", UpTo("calculator", 2)),
        ("calculator@2", Exact("calculator", 2)),
        ("calculator@0", Exact("calculator", 0)),
    ],
)
def test_what_a_reference_means(ref: str, target: Target) -> None:
    known = table(published(0), published(1), published(2), moved(1), moved(2, "latest"))
    assert known.target(ref) == target


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("poet", "known: calculator"),
        ("calculator@9", "no such version"),
        ("calculator#canary", "it has: serving"),
        ("calculator@nine", "calculator@7"),
        ("", "write policy"),
    ],
)
def test_an_unknown_reference_says_what_is_known(ref: str, hint: str) -> None:
    target = table(published(0), moved(0)).target(ref)
    assert isinstance(target, Unknown)
    assert hint in target.why


def test_the_last_move_of_an_alias_counts_also_backwards() -> None:
    assert table(published(1), published(2), moved(2), moved(1)).target("calculator") == UpTo("calculator", 1)


def test_tombstones_forget() -> None:
    known = table(published(1), moved(1))
    known.forget("calculator#serving")
    assert isinstance(known.target("calculator"), Unknown)
    known.forget("calculator@1")
    assert isinstance(known.target("calculator@1"), Unknown)
    known.forget("nonsense@x")


def test_weights_follow_their_alias() -> None:
    known = table(published(1), published(2), published(3), moved(1), moved(2, "canary", weight=0.25))
    assert known.canaries("calculator") == ((0.25, Exact("calculator", 2)),)
    known.apply(moved(3, "canary", weight=0.5))
    assert known.canaries("calculator") == ((0.5, Exact("calculator", 3)),)
    known.apply(moved(3, "canary"))
    assert known.canaries("calculator") == ()
    known.apply(moved(3, "canary", weight=1))
    known.forget("calculator#canary")
    assert known.canaries("calculator") == ()


@pytest.mark.parametrize("ref", ["calculator#serving", "calculator#canary", "calculator@1", "poet", ""])
def test_only_the_bare_policy_is_split(ref: str) -> None:
    assert table(published(1), moved(1), moved(1, "canary", weight=0.5)).canaries(ref) == ()


def test_the_exact_version_is_preferred_and_an_older_one_stands_in() -> None:
    old, new = replica("http://old", "calculator@1", "calculator@2"), replica("http://new", "calculator@3")
    assert best(UpTo("calculator", 3), [old, new]) == (3, ["http://new"])
    assert best(UpTo("calculator", 3), [old]) == (2, ["http://old"])


def test_nothing_newer_than_the_target_is_used() -> None:
    assert best(UpTo("calculator", 2), [replica("http://a", "calculator@3")]) is None


def test_an_exact_reference_accepts_no_substitute() -> None:
    assert best(Exact("calculator", 2), [replica("http://a", "calculator@1")]) is None


def test_replicas_that_are_down_or_serve_something_else_are_not_used() -> None:
    down = replica("http://down", "calculator@1", healthy=False)
    other = replica("http://other", "calculator-xl@1", "calculator", "@1", "calculator@x")
    assert best(UpTo("calculator", 1), [down, other]) is None


def lanes(count: int, limit: int = 2) -> list[Lane]:
    return [Lane(f"http://r{i}", limit=limit, rules=Rules(), on_change=lambda: None) for i in range(count)]


def test_avoided_lanes_are_candidates_only_when_there_is_no_other() -> None:
    a, b = pool = lanes(2)
    assert candidates(pool, {a.name}) == [b]
    assert candidates(pool, {a.name, b.name}) == pool


def test_the_least_loaded_lane_has_room_and_holds_the_smallest_share() -> None:
    a, b, c = pool = lanes(3)
    assert least_loaded(pool) is a
    a.take()
    b.take()
    b.take()
    assert least_loaded(pool) is c
    c.take()
    assert least_loaded(pool) is a
    a.take()
    c.take()
    assert least_loaded(pool) is None


def test_rendezvous_hashing_is_the_same_in_every_process() -> None:
    assert [preferred(lanes(4), UUID(int=i)).name[-1] for i in range(8)] == [
        "1",
        "1",
        "0",
        "0",
        "3",
        "1",
        "2",
        "1",
    ]


@given(st.lists(st.uuids(), min_size=1, max_size=50), st.integers(2, 8), st.data())
def test_losing_a_lane_moves_only_its_own_rollouts(
    rollouts: list[UUID], count: int, data: st.DataObject
) -> None:
    pool: Sequence[Lane] = lanes(count)
    lost = data.draw(st.sampled_from(pool))
    for rollout in rollouts:
        before = preferred(pool, rollout)
        after = preferred([lane for lane in pool if lane is not lost], rollout)
        assert before is lost or after is before


def test_rollouts_spread_over_lanes() -> None:
    pool = lanes(4)
    picks = [preferred(pool, UUID(int=i)) for i in range(400)]
    assert min(picks.count(lane) for lane in pool) > 60


def test_a_choice_names_its_model() -> None:
    assert Choice("http://a", "calculator", 3).model == "calculator@3"
    assert Choice("https://api.example/v1", "external:judge", None).model == "external:judge"
