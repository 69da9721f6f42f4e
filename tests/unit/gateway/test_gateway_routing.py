"""Which version and which replica: worked examples, and what rendezvous hashing promises."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.routing.choice import (
    Choice,
    Exact,
    PolicyTable,
    ReplicaState,
    Target,
    Unknown,
    UpTo,
    choose,
)
from leyden_schemas import AliasMoved, ModelPublished

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROLLOUT = UUID(int=7)


def published(version: int, policy: str = "calculator") -> ModelPublished:
    return ModelPublished(
        event_id=uuid4(), policy=policy, version=version, occurred_at=NOW, artifact="file:///x", digest="d"
    )


def moved(version: int, alias: str = "serving", policy: str = "calculator") -> AliasMoved:
    return AliasMoved(event_id=uuid4(), policy=policy, alias=alias, version=version, occurred_at=NOW)


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


def test_the_exact_version_is_preferred_and_an_older_one_stands_in() -> None:
    old, new = replica("http://old", "calculator@1", "calculator@2"), replica("http://new", "calculator@3")
    assert choose(UpTo("calculator", 3), [old, new], ROLLOUT) == Choice("http://new", "calculator", 3)
    assert choose(UpTo("calculator", 3), [old], ROLLOUT) == Choice("http://old", "calculator", 2)


def test_nothing_newer_than_the_target_is_used() -> None:
    assert choose(UpTo("calculator", 2), [replica("http://a", "calculator@3")], ROLLOUT) is None


def test_an_exact_reference_accepts_no_substitute() -> None:
    assert choose(Exact("calculator", 2), [replica("http://a", "calculator@1")], ROLLOUT) is None


def test_replicas_that_are_down_or_serve_something_else_are_not_used() -> None:
    down = replica("http://down", "calculator@1", healthy=False)
    other = replica("http://other", "calculator-xl@1", "calculator", "@1", "calculator@x")
    assert choose(UpTo("calculator", 1), [down, other], ROLLOUT) is None


def test_avoided_replicas_are_used_only_when_there_is_no_other() -> None:
    pool = [replica("http://a", "calculator@1"), replica("http://b", "calculator@1")]
    first = choose(UpTo("calculator", 1), pool, ROLLOUT)
    assert first
    second = choose(UpTo("calculator", 1), pool, ROLLOUT, {first.replica})
    assert second
    assert second.replica != first.replica
    assert choose(UpTo("calculator", 1), pool, ROLLOUT, {"http://a", "http://b"}) == first


@given(st.lists(st.uuids(), min_size=1, max_size=50), st.integers(2, 8), st.data())
def test_losing_a_replica_moves_only_its_own_rollouts(
    rollouts: list[UUID], count: int, data: st.DataObject
) -> None:
    pool = [replica(f"http://r{i}", "calculator@1") for i in range(count)]
    lost = data.draw(st.sampled_from(pool))
    for rollout in rollouts:
        before = choose(UpTo("calculator", 1), pool, rollout)
        after = choose(UpTo("calculator", 1), [r for r in pool if r is not lost], rollout)
        assert before
        assert before.replica == lost.url or after == before


def test_rollouts_spread_over_replicas() -> None:
    pool = [replica(f"http://r{i}", "calculator@1") for i in range(4)]
    picks = [choose(UpTo("calculator", 1), pool, UUID(int=i)) for i in range(400)]
    shares = [sum(pick is not None and pick.replica == r.url for pick in picks) for r in pool]
    assert min(shares) > 60
