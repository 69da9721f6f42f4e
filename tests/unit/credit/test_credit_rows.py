"""Steps become the fewest rows, token for token as they were sampled."""

import math
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_credit.rows import StepDrop, merge
from leyden_platform.testing.rollouts import make_step
from leyden_platform.transcript import Transcript
from leyden_schemas import Step


def rows(*steps: Step) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids and span bounds of every row."""
    merged = merge(steps, [1.0] * len(steps), policy="calculator")
    return [(row.token_ids, [(span.start, span.stop) for span in row.spans]) for row in merged.rows]


def test_turns_of_a_conversation_share_one_row() -> None:
    assert rows(make_step([1, 2], [3]), make_step([1, 2, 3, 9], [4, 5])) == [
        ([1, 2, 3, 9, 4, 5], [(2, 3), (4, 6)])
    ]


def test_a_prompt_that_adds_nothing_continues_too() -> None:
    assert rows(make_step([1], [2]), make_step([1, 2], [3])) == [([1, 2, 3], [(1, 2), (2, 3)])]


def test_a_rewritten_history_starts_its_own_row() -> None:
    assert rows(make_step([1, 2], [3]), make_step([1, 7, 3], [4])) == [
        ([1, 2, 3], [(2, 3)]),
        ([1, 7, 3, 4], [(3, 4)]),
    ]


def test_equal_calls_each_have_a_row_of_their_own() -> None:
    assert rows(make_step([1], [2]), make_step([1], [2]), make_step([1], [3])) == [
        ([1, 2], [(1, 2)]),
        ([1, 2], [(1, 2)]),
        ([1, 3], [(1, 2)]),
    ]


def test_interleaved_sub_agents_each_continue_their_row() -> None:
    assert rows(
        make_step([1], [2]),
        make_step([8], [9], agent="helper"),
        make_step([1, 2, 5], [3]),
        make_step([8, 9, 7], [6], agent="helper"),
    ) == [([1, 2, 5, 3], [(1, 2), (3, 4)]), ([8, 9, 7, 6], [(1, 2), (3, 4)])]


def test_a_second_branch_does_not_repeat_the_loss_of_what_it_shares() -> None:
    assert rows(make_step([1], [2]), make_step([1, 2, 3], [4]), make_step([1, 2, 5], [6])) == [
        ([1, 2, 3, 4], [(1, 2), (3, 4)]),
        ([1, 2, 5, 6], [(3, 4)]),
    ]


def test_the_longest_row_that_fits_is_continued() -> None:
    # [1, 2, 3] and [1, 2] both begin the third prompt; only [1, 2] begins the fourth.
    assert rows(
        make_step([1], [2]), make_step([1], [2, 3]), make_step([1, 2, 3, 4], [5]), make_step([1, 2, 7], [8])
    ) == [([1, 2, 7, 8], [(1, 2), (3, 4)]), ([1, 2, 3, 4, 5], [(1, 3), (4, 5)])]


def test_spans_carry_what_the_learner_needs() -> None:
    one = make_step([1], [2], logprobs=[-0.25], version=4, completion_id=UUID(int=1))
    two = make_step([1, 2], [3, 4], logprobs=[-1.0, -2.0], version=5, completion_id=UUID(int=2))
    (row,) = merge([one, two], [0.5, -0.5], policy="calculator").rows
    first, second = row.spans
    assert (first.logprobs, first.advantage, first.version, first.completion_id) == (
        [-0.25],
        0.5,
        4,
        UUID(int=1),
    )
    assert (second.logprobs, second.advantage, second.version) == ([-1.0, -2.0], -0.5, 5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"untrainable": "no_logprobs"}, StepDrop.UNTRAINABLE),
        ({"policy": "judge"}, StepDrop.OTHER_POLICY),
        ({"version": None}, StepDrop.UNKNOWN_VERSION),
        ({"version": -1}, StepDrop.UNKNOWN_VERSION),
        ({"prompt_token_ids": []}, StepDrop.NO_PROMPT_IDS),
        ({"token_ids": [], "logprobs": []}, StepDrop.NO_TOKEN_IDS),
        ({"logprobs": []}, StepDrop.LOGPROBS_MISMATCH),
        ({"logprobs": [-0.1, -0.2]}, StepDrop.LOGPROBS_MISMATCH),
        ({"logprobs": [math.nan]}, StepDrop.LOGPROBS_NOT_FINITE),
        ({"logprobs": [-math.inf]}, StepDrop.LOGPROBS_NOT_FINITE),
    ],
)
def test_a_step_that_cannot_be_trained_on_is_dropped_alone(changes: dict[str, Any], reason: StepDrop) -> None:
    bad = make_step([1], [2], **changes)
    merged = merge([bad, make_step([1, 2], [3])], [1.0, 1.0], policy="calculator")
    assert merged.dropped == [reason]
    assert [row.token_ids for row in merged.rows] == [[1, 2, 3]]


def test_the_policy_may_be_named_with_its_version() -> None:
    assert rows(make_step([1], [2], policy="calculator@3")) == [([1, 2], [(1, 2)])]


def test_two_thousand_turns_are_one_row() -> None:
    history, steps = [1], []
    for turn in range(2_000):
        steps.append(make_step(history, [turn]))
        history = [*history, turn, 7]
    ((token_ids, spans),) = rows(*steps)
    assert len(token_ids) == 4_000
    assert len(spans) == 2_000


tokens = st.integers(min_value=0, max_value=2)


@st.composite
def conversations(draw: st.DrawFn) -> list[Step]:
    """Steps that start anew or go on from the end, or a part, of an earlier one."""
    steps: list[Step] = []
    for _ in range(draw(st.integers(min_value=1, max_value=8))):
        earlier = draw(st.sampled_from([[], *[[*s.prompt_token_ids, *s.token_ids] for s in steps]]))
        cut = draw(st.integers(min_value=0, max_value=len(earlier)))
        added = draw(st.lists(tokens, max_size=2))
        prompt = (earlier[:cut] if draw(st.booleans()) else earlier) + added
        sampled = draw(st.lists(tokens, min_size=1, max_size=3))
        steps.append(make_step(prompt or [0], sampled, logprobs=[-draw(st.floats(0, 5)) for _ in sampled]))
    return steps


@given(conversations())
def test_rows_reproduce_every_step_once(steps: list[Step]) -> None:
    by_id = {step.completion_id: (step, float(index)) for index, step in enumerate(steps)}
    merged = merge(steps, [float(index) for index in range(len(steps))], policy="calculator")
    spans = [(row, span) for row in merged.rows for span in row.spans]
    assert sorted(span.completion_id for _, span in spans) == sorted(by_id)
    assert len(merged.rows) <= len(steps)
    for row, span in spans:
        step, advantage = by_id[span.completion_id]
        assert row.token_ids[: span.start] == step.prompt_token_ids
        assert row.token_ids[span.start : span.stop] == step.token_ids
        assert (span.logprobs, span.advantage) == (step.logprobs, advantage)
    for row in merged.rows:
        carrying = [position for span in row.spans for position in range(span.start, span.stop)]
        assert len(set(carrying)) == len(carrying)


def fewest(steps: list[Step]) -> int:
    """By brute force: steps less the most that can each go on from a step that no other goes on from."""
    wholes = [[*step.prompt_token_ids, *step.token_ids] for step in steps]
    after = [
        [j for j, other in enumerate(steps) if other.prompt_token_ids[: len(whole)] == whole]
        for whole in wholes
    ]
    before: dict[int, int] = {}

    def goes_on(step: int, tried: set[int]) -> bool:
        for other in after[step]:
            if other not in tried:
                tried.add(other)
                if other not in before or goes_on(before[other], tried):
                    before[other] = step
                    return True
        return False

    return len(steps) - sum(goes_on(step, set()) for step in range(len(steps)))


@given(conversations(), st.randoms(use_true_random=False))
def test_rows_are_the_fewest_in_whatever_order_the_steps_came(steps: list[Step], order: Random) -> None:
    order.shuffle(steps)
    merged = merge(steps, [0.0] * len(steps), policy="calculator").rows
    assert len(merged) == fewest(steps)


@given(conversations())
def test_packed_steps_give_the_same_rows(steps: list[Step]) -> None:
    advantages = [float(index) for index in range(len(steps))]
    packed = Transcript(steps).steps()
    assert merge(packed, advantages, policy="calculator") == merge(steps, advantages, policy="calculator")


@pytest.mark.parametrize(("most", "rows"), [(5, 2), (4, 0)])
def test_rows_of_more_tokens_than_a_message_holds_are_not_made(most: int, rows: int) -> None:
    steps = [make_step([1], [2]), make_step([3, 4], [5]), make_step([], [6])]
    merged = merge(steps, [1.0] * 3, policy="calculator", most_tokens=most)
    assert (len(merged.rows), merged.too_large) == (rows, rows == 0)
    assert merged.dropped == [StepDrop.NO_PROMPT_IDS]


def test_only_selected_agents_are_trained_on() -> None:
    steps = [make_step([1], [2]), make_step([1, 2, 3], [4], agent="helper"), make_step([1, 2, 3, 4], [5])]
    merged = merge(steps, [1.0] * 3, policy="calculator", agents={"main"})
    assert merged.dropped == [StepDrop.OTHER_AGENT]
    assert [(row.token_ids, len(row.spans)) for row in merged.rows] == [([1, 2, 3, 4, 5], 2)]
