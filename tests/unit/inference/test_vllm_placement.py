"""Which server holds which version."""

from collections import Counter
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from leyden_inference.versions import Announced
from leyden_inference.vllm.placement import by_priority, place
from leyden_platform.clock import SystemClock
from leyden_schemas import AliasMoved, ModelPublished, WeightsKind

NOW = SystemClock().now()


def version(number: int, **changes: Any) -> ModelPublished:
    fields = {"event_id": UUID(int=0), "policy": "p", "version": number, "occurred_at": NOW}
    return ModelPublished(**{**fields, "artifact": "file:///x", "digest": "d", **changes})


def announced(*numbers: int, **aliases: int) -> Announced:
    table = Announced()
    for number in numbers:
        table.apply(version(number))
    for alias, number in aliases.items():
        table.apply(
            AliasMoved(event_id=UUID(int=0), policy="p", version=number, occurred_at=NOW, alias=alias)
        )
    return table


def test_named_aliases_come_first_then_the_newest_then_the_others() -> None:
    table = announced(0, 3, 5, 7, 9, base=0, serving=5, latest=7, canary=3)
    assert by_priority(table, "p", ["serving", "latest"], ()) == [5, 7, 9, 3, 0]
    assert by_priority(table, "p", ["canary"], ()) == [3, 9, 7, 5, 0]
    assert by_priority(table, "other", ["serving"], ()) == []


def test_the_newest_older_version_stands_in_for_one_that_was_refused_or_not_published() -> None:
    table = announced(3, 4, 5, serving=5)
    assert by_priority(table, "p", ["serving"], {5}) == [4]
    assert by_priority(table, "p", ["serving"], {3, 4, 5}) == []
    assert by_priority(announced(3, serving=8), "p", ["serving"], ()) == [3]


def held(placed: list[Any]) -> list[int | None]:
    return [wanted and wanted.base.version for wanted in placed]


def test_servers_keep_what_they_have_and_the_first_versions_get_more() -> None:
    published = {number: version(number) for number in (1, 2, 3)}
    assert held(place([3, 2], published, ["p@2", None, "p@1"], 0)) == [2, 3, 3]
    assert held(place([3], published, ["p@2", "p@3"], 0)) == [3, 3]
    assert held(place([3, 2, 1], published, ["p@1"], 0)) == [3]
    assert held(place([], published, ["p@1", None], 0)) == [None, None]


def test_an_adapter_needs_its_parent_and_counts_as_it() -> None:
    lora = WeightsKind.LORA
    published = {
        0: version(0),
        1: version(1, kind=lora, parent=0),
        2: version(2, kind=lora, parent=0),
        3: version(3, kind=lora, parent=8),
    }
    (wanted,) = place([2, 1, 0, 3], published, [None], 1)
    assert wanted is not None
    assert wanted.base.version == 0
    assert [message.version for message in wanted.adapters] == [2]


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True),
    st.lists(st.one_of(st.none(), st.integers(0, 6)), min_size=1, max_size=6),
)
def test_every_version_has_a_server_while_there_are_enough_and_nothing_moves_twice(
    versions: list[int], before: list[int | None]
) -> None:
    published = {number: version(number) for number in range(7)}
    names = [None if number is None else f"p@{number}" for number in before]
    after = held(place(versions, published, names, 0))
    counts = Counter(after)
    assert list(counts)
    assert set(counts) == set(versions[: len(before)])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert held(place(versions, published, [f"p@{number}" for number in after], 0)) == after
