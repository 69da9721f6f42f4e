"""When publishing may move an alias, and what is announced."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_registry.announcements import alias_moved, model_published
from leyden_registry.promotion import held_back, overweight
from leyden_registry.values import AliasMove, Artifact, Version
from leyden_schemas import Topics, WeightsKind, decode, encode

BASE = Version(
    policy="calculator",
    version=3,
    version_id=UUID(int=7),
    tenant="default",
    run="run-a",
    artifact=Artifact("file:///models/3", "d" * 64, "t" * 64, "c" * 64),
    kind=WeightsKind.FULL,
    parent=2,
    step=30,
    prompt_version=None,
    sampling_defaults={},
    metrics={"reward": 0.5},
    published_at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
)
steps = st.none() | st.integers(0, 5)


def version(number: int, step: int | None, run: str = "run-a") -> Version:
    """A version that differs from ``BASE`` in what decides."""
    return replace(BASE, version=number, step=step, run=run)


def test_an_alias_that_names_nothing_moves() -> None:
    assert held_back(None, BASE) is None


@pytest.mark.parametrize(
    ("current", "candidate", "reason"),
    [
        (version(3, 30), version(4, 40), None),
        (version(3, 30), version(4, 30), None),
        (version(3, 30), version(4, 20), "names version 3 of step 30, newer than step 20"),
        (version(3, 30), version(4, 20, run="run-b"), None),
        (version(3, None), version(4, 20), None),
        (version(3, 30), version(4, None), None),
        (version(5, None), version(4, None), "names version 5, which is not older than 4"),
    ],
)
def test_an_older_checkpoint_is_held_back(current: Version, candidate: Version, reason: str | None) -> None:
    assert held_back(current, candidate) == reason


@given(st.lists(steps, min_size=1, max_size=8))
def test_within_a_run_the_alias_never_returns_to_an_older_step(published: list[int | None]) -> None:
    current: Version | None = None
    for number, step in enumerate(published):
        candidate = version(number, step)
        if held_back(current, candidate) is None:
            if current and current.step is not None and step is not None:
                assert step >= current.step
            current = candidate


def test_a_version_is_announced_whole_and_the_same_each_time() -> None:
    message = model_published(BASE)
    assert message == model_published(BASE)
    assert message.key() == "calculator@3"
    assert (message.artifact, message.digest, message.parent, message.step) == (
        "file:///models/3", "d" * 64, 2, 30,
    )  # fmt: skip
    assert decode(Topics.MODELS, encode(message)) == message


def test_each_move_of_an_alias_is_its_own_event() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    move = AliasMove(11, "calculator", "serving", 2, 3, "default", "run-a", "ada", "better", at, 0.25)
    message = alias_moved(move)
    assert message.key() == "calculator#serving"
    assert (message.previous, message.version, message.reason) == (2, 3, "better")
    assert message.weight == 0.25
    assert message.event_id == alias_moved(move).event_id
    assert message.event_id != alias_moved(replace(move, move_id=12)).event_id


@pytest.mark.parametrize(
    ("alias", "weight", "others", "why"),
    [
        ("canary", None, {"beta": 1.0}, None),
        ("canary", 1.0, {}, None),
        ("canary", 0.7, {"a": 0.1, "b": 0.2}, None),
        ("canary", 0.5, {"canary": 0.9}, None),
        (
            "canary",
            0.5,
            {"canary": 0.9, "beta": 0.6},
            "weight 0.5 is more than the 0.4 that is left beside beta 0.6",
        ),
        ("canary", 0.1, {"beta": 1.0}, "weight 0.1 is more than the 0 that is left beside beta 1"),
        ("serving", None, {"beta": 1.0}, None),
        ("serving", 0.1, {}, "serving has no weight: it takes what the weighted aliases leave"),
    ],
)
def test_shares_of_traffic(
    alias: str, weight: float | None, others: dict[str, float], why: str | None
) -> None:
    assert overweight(alias, weight, others) == why
