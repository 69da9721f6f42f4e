"""What keeps a version's weights."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from leyden_registry.retention import Use, Uses, in_use
from leyden_registry.values import AliasMove, Artifact, Version
from leyden_schemas import WeightsKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
VERSION = Version(
    "calculator", 3, UUID(int=3), "default", "default", Artifact("file:///x", "", "", ""),
    WeightsKind.FULL, 2, 3, None, {}, {}, NOW - timedelta(hours=1),
)  # fmt: skip
FREE = Uses(newest=9, places={}, holders=[], adapters=[], left_at=NOW - timedelta(seconds=600), now=NOW)


def place(version: int, weight: float | None = None) -> AliasMove:
    return AliasMove(1, "calculator", "a", None, version, "default", "default", "ada", "", NOW, weight)


def use(**changes: object) -> tuple[Use, str] | None:
    return in_use(VERSION, replace(FREE, **changes), grace_s=600)  # type: ignore[arg-type]


def test_what_nothing_needs_may_go() -> None:
    assert use() is None
    assert use(places={"serving": place(9)}) is None


def test_an_alias_holds_it_and_a_canary_is_one() -> None:
    held = use(places={"serving": place(9), "canary": place(3, 0.1), "best": place(3)})
    assert held == (Use.ALIAS, "calculator@3 is named by best, canary; move it first")


def test_a_pin_holds_it() -> None:
    assert use(holders=["paper", "run:tuesday"]) == (
        Use.PINNED,
        "calculator@3 is pinned by paper, run:tuesday; unpin it first",
    )


def test_the_newest_and_the_base_of_adapters_stay() -> None:
    newest = use(newest=3)
    assert newest is not None
    assert newest[0] is Use.NEWEST
    held = use(adapters=[5, 4])
    assert held is not None
    assert held[0] is Use.BASE
    assert "calculator@4, calculator@5" in held[1]


def test_what_was_served_just_now_stays_for_a_while() -> None:
    held = use(left_at=NOW - timedelta(seconds=599))
    assert held is not None
    assert held[0] is Use.RECENT
    assert "599 s ago; it stays for 600 s" in held[1]
