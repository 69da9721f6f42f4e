"""What is forced in training, filled in evaluation and left alone otherwise."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.exchange.training_mode import FORCED, REMOVED, Wants, prepare
from leyden_platform.tokens import RolloutClaims
from leyden_schemas import Sampling, Split


def claims(split: Split, **sampling: Any) -> RolloutClaims:
    return RolloutClaims(
        rollout_id=UUID(int=1),
        attempt=1,
        tenant="default",
        run="default",
        policy="calculator",
        split=split,
        sampling=Sampling(**sampling),
        max_completions=4,
    )


CAPTURE = {"return_token_ids": True, "logprobs": True}


def test_training_forces_sampling_and_says_what_it_overrode() -> None:
    request = {"messages": [], "temperature": 0.2, "top_p": 0.9, "logit_bias": {"5": 1}, "top_k": -1}
    prepared = prepare(request, claims(Split.TRAIN, temperature=0.8))
    assert prepared.forced
    assert prepared.body == {"messages": [], "temperature": 0.8, **FORCED, **CAPTURE}
    assert prepared.sampling.overridden == {"temperature": 0.2, "top_p": 0.9, "logit_bias": {"5": 1}}
    used = prepared.sampling
    assert (used.temperature, used.top_p, used.top_k) == (0.8, 1.0, -1)
    assert request["temperature"] == 0.2, "the caller's request is recorded as it came"


@pytest.mark.parametrize(
    ("asked", "body", "overridden"),
    [
        ({}, {"max_tokens": 64}, {}),
        ({"max_tokens": 10}, {"max_tokens": 10}, {}),
        ({"max_tokens": 100}, {"max_tokens": 64}, {"max_tokens": 100}),
        ({"max_completion_tokens": 100}, {"max_completion_tokens": 64}, {"max_completion_tokens": 100}),
        ({"max_tokens": "many"}, {"max_tokens": 64}, {"max_tokens": "many"}),
    ],
)
def test_in_training_the_task_s_token_limit_bounds_the_caller_s(
    asked: dict[str, Any], body: dict[str, Any], overridden: dict[str, Any]
) -> None:
    prepared = prepare(asked, claims(Split.TRAIN, max_tokens=64))
    limits = {k: v for k, v in prepared.body.items() if k.startswith("max_")}
    assert limits == body
    assert prepared.sampling.max_tokens == next(iter(body.values()))
    assert prepared.sampling.overridden == overridden


def test_evaluation_fills_what_is_missing_only() -> None:
    filled = prepare({}, claims(Split.EVAL, temperature=0.0, max_tokens=9))
    assert filled.body == {"temperature": 0.0, "max_tokens": 9, **CAPTURE}
    asked = {"temperature": 0.5, "max_completion_tokens": 100, "top_p": 0.9}
    kept = prepare(asked, claims(Split.EVAL, temperature=0.0, max_tokens=9))
    assert kept.body == {**asked, **CAPTURE}
    assert (kept.forced, kept.sampling.overridden, kept.sampling.max_tokens) == (False, {}, 100)


def test_without_a_token_sampling_is_the_caller_s() -> None:
    prepared = prepare({"model": "calculator"}, None)
    assert prepared.body == {"model": "calculator", **CAPTURE}
    assert prepared.sampling.temperature is None


def test_usage_of_streams_is_asked_for() -> None:
    prepared = prepare({"stream": True, "stream_options": {"x": 1}}, None)
    assert prepared.body["stream_options"] == {"x": 1, "include_usage": True}
    assert prepared.wants == Wants()
    assert "stream_options" not in prepare({"stream": False}, None).body
    assert prepare({"stream": True, "stream_options": 3}, None).body["stream_options"] == 3


def test_what_the_caller_asked_for_itself() -> None:
    request = {"logprobs": True, "return_token_ids": True, "stream_options": {"include_usage": True}}
    assert prepare(request, None).wants == Wants(token_ids=True, logprobs=True, usage=True)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.just({}),
    st.just(10**400),
)
NAMES = st.sampled_from(
    ["temperature", "n", "seed", "stream", "stream_options", "max_tokens", *FORCED, *REMOVED]
)


@given(st.dictionaries(NAMES, VALUES), st.sampled_from([None, claims(Split.TRAIN), claims(Split.EVAL)]))
def test_no_value_of_a_parameter_breaks_it(request: dict[str, Any], whose: RolloutClaims | None) -> None:
    before = dict(request)
    prepared = prepare(request, whose)
    assert request == before
    assert prepared.body["return_token_ids"] is True
    assert prepared.choices >= 1
    assert prepared.sampling == type(prepared.sampling).model_validate(prepared.sampling.model_dump())
    if prepared.forced:
        assert not set(prepared.body) & set(REMOVED)
        assert {name: prepared.body[name] for name in FORCED} == FORCED
