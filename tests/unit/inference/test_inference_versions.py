"""Which versions are held, and which one a name means."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_inference.versions import Announced, resolve, to_keep
from leyden_platform.clock import SystemClock
from leyden_schemas import AliasMoved, ModelPublished

NOW = SystemClock().now()


def published(version: int, policy: str = "calc") -> ModelPublished:
    return ModelPublished(
        event_id=uuid4(), policy=policy, version=version, occurred_at=NOW, artifact="file:///x", digest="d"
    )


def moved(alias: str, version: int, policy: str = "calc") -> AliasMoved:
    return AliasMoved(event_id=uuid4(), policy=policy, version=version, occurred_at=NOW, alias=alias)


def announced(*messages: ModelPublished | AliasMoved) -> Announced:
    table = Announced()
    for message in messages:
        table.apply(message)
    return table


def test_the_newest_and_every_aliased_version_are_wanted() -> None:
    table = announced(*map(published, range(5)), moved("serving", 2), moved("champion", 0))
    assert table.wanted("calc") == {0, 2, 4}
    table.apply(moved("serving", 3))
    assert table.wanted("calc") == {0, 3, 4}
    assert table.wanted("other") == set()


def test_an_alias_of_a_version_nobody_published_is_not_wanted() -> None:
    assert announced(published(1), moved("serving", 7)).wanted("calc") == {1}
    assert announced(moved("serving", 7)).wanted("calc") == set()


def test_tombstones_forget_versions_and_aliases() -> None:
    table = announced(published(0), published(1), moved("serving", 0))
    table.forget("calc@1")
    assert table.wanted("calc") == {0}
    table.forget("calc#serving")
    assert table.aliases == {"calc": {}}
    table.forget("calc@x")
    table.forget("")


def test_what_is_served_stays_while_its_replacement_cannot_be_loaded() -> None:
    assert to_keep({5}, {4}) == {4}
    assert to_keep({5, 3}, {4, 2, 1}) == {4, 2}
    assert to_keep({5}, {5, 4}) == {5}
    assert to_keep({9, 12}, {9, 10, 11}) == {9, 11}


@given(st.sets(st.integers(0, 20), min_size=1), st.sets(st.integers(0, 20), min_size=1))
def test_something_is_kept_whenever_anything_not_newer_is_loaded(wanted: set[int], loaded: set[int]) -> None:
    kept = to_keep(wanted, loaded)
    assert kept <= loaded
    assert kept >= wanted & loaded
    assert len(kept) <= len(wanted)
    assert bool(kept) == (min(loaded) <= max(wanted))


@pytest.mark.parametrize(
    ("ref", "meant"),
    [
        ("calc@2", "calc@2"),
        ("calc@3", None),
        ("calc", "calc@2"),
        ("calc#serving", "calc@2"),
        ("calc#latest", "calc@4"),
        ("calc#nobody", None),
        ("other", "other@9"),
        ("other#serving", None),
        ("plain", "plain"),
        ("calc@x", None),
        ("", None),
        ("ghost", None),
    ],
)
def test_names(ref: str, meant: str | None) -> None:
    loaded = ["calc@1", "calc@2", "calc@4", "other@9", "other@8", "plain"]
    aliases = {"calc": {"serving": 3, "latest": 4}}
    assert resolve(ref, loaded, aliases) == meant
