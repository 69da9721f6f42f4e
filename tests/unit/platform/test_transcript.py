"""Whatever steps an attempt has, packing, publishing and reading them gives the same steps again."""

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import make_step, make_trajectory
from leyden_platform.transcript import Transcript
from leyden_schemas import PromptBase, Protocol, Step, Topics, Trajectory, decode, encode

message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant"]),
        "content": st.text(max_size=5) | st.booleans() | st.integers(0, 2),
    }
)
scalar = st.integers(0, 1) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def attempts(draw: st.DrawFn) -> list[Step]:
    """Steps, each with all of its prompt, that start anew or go on from the end, or a part, of another."""
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 7))):
        told = [([*s.prompt_token_ids, *s.token_ids], s.request.get("messages", [])) for s in steps]
        ids, talk = draw(st.sampled_from([([], []), *told]))
        if draw(st.booleans()):
            ids, talk = ids[: draw(st.integers(0, len(ids)))], talk[: draw(st.integers(0, len(talk)))]
        more = draw(st.lists(st.integers(0, 2**32 - 1), max_size=80))
        rest = draw(st.dictionaries(st.sampled_from(["a", "b", "tools"]), scalar))
        request = {"messages": [*talk, *draw(st.lists(message, max_size=3))], **rest}
        sampled = draw(st.lists(st.integers(0, 99), max_size=40))
        size = len(sampled)
        steps.append(
            make_step(
                [*ids, *more],
                sampled,
                logprobs=draw(st.lists(st.floats(-10, 0), min_size=size, max_size=size)),
                request=request if draw(st.integers(0, 9)) else {},
                response=draw(st.none() | st.just({"choices": [1]})),
            )
        )
    return steps


@given(attempts())
def test_steps_survive_packing_publishing_and_reading(steps: list[Step]) -> None:
    plain = make_trajectory(steps=steps)
    packed = plain.model_copy(update={"steps": Transcript(steps).steps()})
    assert packed.steps == steps

    read: Trajectory = decode(Topics.TRAJECTORIES, encode(packed))
    assert read.steps == steps
    assert read.model_dump() == plain.model_dump()
    assert json.loads(read.model_dump_json()) == json.loads(plain.model_dump_json())

    again = Transcript(read.steps)
    assert again.steps() == steps
    assert encode(plain.model_copy(update={"steps": again.steps()})) == encode(packed)


@given(attempts())
def test_json_types_are_kept_apart(steps: list[Step]) -> None:
    """True, 1 and 1.0 are equal in Python and not on the log."""
    kept = [json.dumps(step.request, sort_keys=True) for step in Transcript(steps).steps()]
    assert kept == [json.dumps(step.request, sort_keys=True) for step in steps]


def conversation(turns: int, *, new: int, sampled: int) -> list[Step]:
    """Every turn resends everything, as an agent's request does."""
    ids, talk, steps = list(range(100_000, 100_000 + new)), [{"role": "system", "content": "s"}], []
    for turn in range(turns):
        answer = [(turn * 7919 + at * 104_729) % 150_000 for at in range(sampled)]
        logprobs = [-0.5] * sampled
        steps.append(make_step(ids, answer, logprobs=logprobs, request={"messages": list(talk)}))
        more = [(turn * 15_485_863 + at * 32_452_843) % 150_000 for at in range(new)]
        ids = [*ids, *answer, *more]
        talk = [*talk, {"role": "assistant", "content": f"a{turn}"}, {"role": "user", "content": f"u{turn}"}]
    return steps


def test_shared_prefixes_are_held_and_published_once() -> None:
    """100 turns up to 32k tokens: quadratic would be 1.6 million ids, 40 times what there is."""
    steps = conversation(100, new=240, sampled=80)
    unique = 100 * 320
    transcript = Transcript(steps)
    assert transcript.nbytes < 1.5 * 4 * unique
    published = encode(make_trajectory(steps=transcript.steps()))
    assert len(published) < 20 * unique


def test_many_turns_are_read_whole_one_at_a_time() -> None:
    steps = conversation(500, new=4, sampled=2)
    kept = Transcript(steps)
    reader = kept.whole()
    for index in (499, 0, 250):
        assert reader.prompt_token_ids(index) == steps[index].prompt_token_ids
        assert reader.request(index) == steps[index].request
    assert sum(len(step.request["messages"]) for step in kept.steps()) == sum(range(1, 1_000, 2))


def test_single_precision_is_enough_only_where_nothing_is_lost() -> None:
    exact, inexact = [-0.5, -0.25], [-0.1, -0.30000000000000004]
    steps = [make_step([1], [2, 3], logprobs=exact), make_step([1], [2, 3], logprobs=inexact)]
    assert [step.logprobs for step in Transcript(steps).steps()] == [exact, inexact]


def test_a_conversation_goes_on_from_one_of_the_same_kind_alone() -> None:
    """A request may have fields that are the conversation of another protocol."""
    talk = [{"role": "user", "content": "hi"}]
    chat = make_step(request={"messages": talk, "input": talk})
    whole = make_step(request={"input": [*talk, "more"]}, protocol=Protocol.RESPONSES)
    steps = [chat, whole]
    assert Transcript(steps).steps() == steps

    leans = PromptBase(completion_id=chat.completion_id, items=1)
    odd = make_step(request={"input": ["more"]}, protocol=Protocol.RESPONSES, base=leans)
    for read in (
        Transcript([chat, odd]).steps(),
        decode(Topics.TRAJECTORIES, encode(make_trajectory(steps=[chat, odd]))).steps,
    ):
        assert [step.untrainable for step in read] == [None, "base_unknown"]
        assert read[1].request == {}


@pytest.mark.parametrize(
    "base",
    [
        {"completion_id": uuid4()},
        {"tokens": 4},
        {"items": 2},
        {"fields": ("tools",)},
    ],
)
def test_a_step_that_leans_on_what_is_not_there_says_so(base: dict[str, Any]) -> None:
    first = make_step([1, 2], [3], request={"messages": ["a"]})
    leans = PromptBase(**({"completion_id": first.completion_id} | base))
    second = make_step([9], [8], base=leans, request={"messages": []}, response={})
    third = make_step([7], [6], base=PromptBase(completion_id=second.completion_id), request={"messages": []})
    transcript = Transcript()
    assert [transcript.append(step) for step in (first, second, third)] == [True, False, False]

    told = transcript.steps()
    assert [step.untrainable for step in told] == [None, "base_unknown", "base_unknown"]
    assert (told[1].prompt_token_ids, told[1].token_ids, told[1].request) == ([], [8], {})
    read = decode(Topics.TRAJECTORIES, encode(make_trajectory(steps=[first, second, third])))
    assert [step.untrainable for step in read.steps] == [None, "base_unknown", "base_unknown"]


@pytest.mark.parametrize("ids", [[-1], [2**32]])
def test_ids_of_no_tokenizer_are_left_out(ids: list[int]) -> None:
    (step,) = Transcript([make_step(ids, [1])]).steps()
    assert (step.untrainable, step.prompt_token_ids, step.token_ids) == ("not_token_ids", [], [])


def test_infinite_logprobs_are_kept() -> None:
    (step,) = Transcript([make_step([1], [2], logprobs=[float("-inf")])]).steps()
    assert step.logprobs == [float("-inf")]
    assert (
        decode(Topics.TRAJECTORIES, encode(make_trajectory(steps=[step]))).steps[0].logprobs == step.logprobs
    )
