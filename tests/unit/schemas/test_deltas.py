"""A completion that leans on an earlier one is made whole again, or said to lean on nothing known."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import TOOL, Rollout, make_step
from leyden_schemas import (
    CompletionRecorded,
    JsonObject,
    PromptBase,
    Protocol,
    Topics,
    UnknownBase,
    decode,
    encode,
    expand,
)

SYSTEM: JsonObject = {"role": "system", "content": "Be brief."}
ASKED: JsonObject = {"role": "user", "content": "2 + 2"}
ANSWERED: JsonObject = {"role": "assistant", "content": "4"}
THANKS: JsonObject = {"role": "user", "content": "Thanks."}


def completion(
    ids: Sequence[int] = (), sampled: Sequence[int] = (), base: PromptBase | None = None, **changes: Any
) -> CompletionRecorded:
    """A record as a reader gets it from the log."""
    made = Rollout().completion(
        prompt_token_ids=list(ids),
        token_ids=list(sampled),
        logprobs=[-0.5] * len(sampled),
        base=base,
        **({"request": {"messages": []}} | changes),
    )
    read: CompletionRecorded = decode(Topics.EVENTS, encode(made))
    return read


def known(*completions: CompletionRecorded) -> Mapping[UUID, CompletionRecorded]:
    """Completions by id."""
    return {completion.completion_id: completion for completion in completions}


def test_the_next_turn_repeats_nothing_of_the_last() -> None:
    first = completion(
        [1, 2, 3], [7, 8], request={"model": "m", "messages": [SYSTEM, ASKED], "tools": [TOOL], "n": 1}
    )
    base = PromptBase(completion_id=first.completion_id, tokens=5, items=2, fields=("model", "tools"))
    second = completion([4, 5], [9], base, request={"messages": [ANSWERED, THANKS], "seed": 1})

    whole = expand(second, known(first).get)

    assert whole.prompt_token_ids == [1, 2, 3, 7, 8, 4, 5]
    assert whole.request == {
        "model": "m",
        "messages": [SYSTEM, ASKED, ANSWERED, THANKS],
        "tools": [TOOL],
        "seed": 1,
    }
    assert whole.base is None
    assert (whole.token_ids, whole.completion_id) == ([9], second.completion_id)


def test_a_prompt_may_share_only_the_beginning() -> None:
    first = completion([1, 2, 3], [7], request={"messages": [SYSTEM, ASKED]})
    base = PromptBase(completion_id=first.completion_id, tokens=2, items=1)
    other = completion([6], base=base, request={"messages": [THANKS]})

    whole = expand(other, known(first).get)

    assert whole.prompt_token_ids == [1, 2, 6]
    assert whole.request == {"messages": [SYSTEM, THANKS]}


def test_what_the_base_has_and_the_record_does_not_name_is_not_taken_over() -> None:
    first = completion([1], request={"messages": [ASKED], "seed": 1})
    base = PromptBase(completion_id=first.completion_id, tokens=1)

    assert expand(completion(base=base), known(first).get).request == {"messages": []}


def test_a_chain_is_resolved_in_order() -> None:
    first = completion([1], [2], request={"messages": [ASKED]})
    second = completion(
        [3],
        [4],
        PromptBase(completion_id=first.completion_id, tokens=2, items=1),
        request={"messages": [ANSWERED]},
    )
    third = completion(
        [5],
        [],
        PromptBase(completion_id=second.completion_id, tokens=4, items=2),
        request={"messages": [THANKS]},
    )

    whole = expand(third, known(first, expand(second, known(first).get)).get)

    assert whole.prompt_token_ids == [1, 2, 3, 4, 5]
    assert whole.request == {"messages": [ASKED, ANSWERED, THANKS]}


@pytest.mark.parametrize(
    ("protocol", "name", "earlier", "rest", "whole"),
    [
        (Protocol.RESPONSES, "input", [ASKED], [THANKS], [ASKED, THANKS]),
        (Protocol.RESPONSES, "input", "Count: 1", ", 2", "Count: 1, 2"),
        (Protocol.MESSAGES, "messages", [ASKED], [THANKS], [ASKED, THANKS]),
        (Protocol.COMPLETIONS, "prompt", "Once 😀", " upon", "Once 😀 upon"),
        (Protocol.COMPLETIONS, "prompt", [1, 2], [3], [1, 2, 3]),
    ],
)
def test_every_protocol_has_its_conversation(
    protocol: Protocol, name: str, earlier: Any, rest: Any, whole: Any
) -> None:
    first = completion(request={name: earlier}, protocol=protocol)
    base = PromptBase(completion_id=first.completion_id, items=len(earlier))
    second = completion(base=base, request={name: rest}, protocol=protocol)

    assert expand(second, known(first).get).request == {name: whole}


def test_a_step_serves_as_base() -> None:
    step = make_step([1, 2], [3], request={"messages": [ASKED]})
    base = PromptBase(completion_id=step.completion_id, tokens=3, items=1)

    whole = expand(completion([4], base=base), {step.completion_id: step}.get)

    assert (whole.prompt_token_ids, whole.request) == ([1, 2, 3, 4], {"messages": [ASKED]})


def test_a_whole_record_is_left_as_it_is() -> None:
    record = completion([1], [2])
    assert expand(record, known().get) is record


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (PromptBase(completion_id=uuid4(), tokens=1), "which is not known"),
        (PromptBase(completion_id=UUID(int=1), tokens=4), "3 of 4 tokens"),
        (PromptBase(completion_id=UUID(int=1), items=2), "no conversation of 2 items"),
        (PromptBase(completion_id=UUID(int=1), fields=("tools",)), "no tools"),
    ],
)
def test_a_base_that_cannot_give_what_is_taken_is_refused(base: PromptBase, why: str) -> None:
    first = completion([1, 2], [3], request={"messages": [ASKED]}, completion_id=UUID(int=1))
    with pytest.raises(UnknownBase, match=why):
        expand(completion(base=base), known(first).get)


def test_a_conversation_that_changed_its_kind_is_refused() -> None:
    first = completion(request={"input": "text"}, protocol=Protocol.RESPONSES)
    base = PromptBase(completion_id=first.completion_id, items=2)
    second = completion(base=base, request={"input": [ASKED]}, protocol=Protocol.RESPONSES)
    with pytest.raises(UnknownBase, match="no conversation of 2 items"):
        expand(second, known(first).get)


def shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The length of the common beginning."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def shrink(record: CompletionRecorded, base: CompletionRecorded) -> CompletionRecorded:
    """The record without what ``base`` holds: what the gateway does, on values."""
    tokens = shared(record.prompt_token_ids, base.prompt_token_ids + base.token_ids)
    items = shared(record.request["messages"], base.request["messages"])
    fields = tuple(
        name
        for name, value in record.request.items()
        if name != "messages" and name in base.request and base.request[name] == value
    )
    rest = {name: value for name, value in record.request.items() if name not in fields}
    return record.model_copy(
        update={
            "base": PromptBase(completion_id=base.completion_id, tokens=tokens, items=items, fields=fields),
            "prompt_token_ids": record.prompt_token_ids[tokens:],
            "request": rest | {"messages": record.request["messages"][items:]},
        }
    )


IDS = st.lists(st.integers(0, 3), max_size=6)
REQUESTS = st.fixed_dictionaries(
    {"messages": st.lists(st.sampled_from([SYSTEM, ASKED, ANSWERED, THANKS]), max_size=5)},
    optional={"tools": st.sampled_from([[], [TOOL]]), "seed": st.integers(0, 1), "user": st.none()},
)


@settings(deadline=None)
@given(turns=st.lists(st.tuples(IDS, IDS, REQUESTS), min_size=1, max_size=6))
def test_what_was_shrunk_expands_to_what_it_was(turns: list[tuple[list[int], list[int], JsonObject]]) -> None:
    told = [completion(ids, sampled, request=request) for ids, sampled, request in turns]
    held = {told[0].completion_id: told[0]}
    for earlier, record in pairwise(told):
        stored = decode(Topics.EVENTS, encode(shrink(record, held[earlier.completion_id])))
        held[record.completion_id] = expand(stored, held.get)
    assert list(held.values()) == told
