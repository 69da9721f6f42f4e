"""What is forced in training, filled in evaluation and left alone otherwise."""

import copy
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_gateway.errors import InvalidRequest
from leyden_gateway.exchange.fields import encode, of
from leyden_gateway.exchange.training_mode import (
    CONSTRAINTS,
    FORCED,
    REMOVED,
    Prepared,
    Wants,
    prepare,
    untouched,
)
from leyden_platform.tokens import RolloutClaims
from leyden_schemas import Protocol, Sampling, SamplingUsed, Split


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


def prepared_of(
    request: dict[str, Any], whose: RolloutClaims | None, protocol: Protocol = Protocol.CHAT
) -> Prepared:
    return prepare(of(request), whose, protocol)


def body(prepared: Prepared) -> dict[str, Any]:
    """What the replica gets, but for the model."""
    sent: dict[str, Any] = json.loads(prepared.encode("calculator@1"))
    assert sent.pop("model") == "calculator@1"
    return sent


def used(prepared: Prepared) -> SamplingUsed:
    """The sampling as a reader of the log has it."""
    return SamplingUsed.model_validate_json(encode(prepared.sampling))


def test_training_forces_sampling_and_says_what_it_overrode() -> None:
    request = of({"messages": [], "temperature": 0.2, "top_p": 0.9, "logit_bias": {"5": 1}, "top_k": -1})
    before = copy.copy(request)
    prepared = prepare(request, claims(Split.TRAIN, temperature=0.8))
    assert prepared.forced
    assert body(prepared) == {"messages": [], "temperature": 0.8, **FORCED, **CAPTURE}
    sampling = used(prepared)
    assert sampling.overridden == {"temperature": 0.2, "top_p": 0.9, "logit_bias": {"5": 1}}
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.8, 1.0, -1)
    assert request == before, "the caller's request is recorded as it came"


def test_the_model_is_the_replica_s_name_for_it() -> None:
    prepared = prepared_of({"model": "gpt-4o", "messages": []}, None)
    assert json.loads(prepared.encode("calculator@7"))["model"] == "calculator@7"


@pytest.mark.parametrize(
    ("asked", "sent", "overridden"),
    [
        ({}, {"max_tokens": 64}, {}),
        ({"max_tokens": 10}, {"max_tokens": 10}, {}),
        ({"max_tokens": 100}, {"max_tokens": 64}, {"max_tokens": 100}),
        ({"max_completion_tokens": 100}, {"max_completion_tokens": 64}, {"max_completion_tokens": 100}),
        ({"max_tokens": "many"}, {"max_tokens": 64}, {"max_tokens": "many"}),
        ({"max_tokens": None}, {"max_tokens": 64}, {}),
    ],
)
def test_in_training_the_task_s_token_limit_bounds_the_caller_s(
    asked: dict[str, Any], sent: dict[str, Any], overridden: dict[str, Any]
) -> None:
    prepared = prepared_of(asked, claims(Split.TRAIN, max_tokens=64))
    limits = {k: v for k, v in body(prepared).items() if k.startswith("max_")}
    assert limits == sent
    assert used(prepared).max_tokens == next(iter(sent.values()))
    assert used(prepared).overridden == overridden


@pytest.mark.parametrize(
    "both",
    [{"max_tokens": 10, "max_completion_tokens": 100}, {"max_tokens": 100, "max_completion_tokens": 10}],
)
def test_both_names_of_the_token_limit_are_bounded(both: dict[str, int]) -> None:
    prepared = prepared_of(both, claims(Split.TRAIN, max_tokens=64))
    limits = {k: v for k, v in body(prepared).items() if k.startswith("max_")}
    assert max(limits.values()) <= 64
    assert used(prepared).overridden == {name: asked for name, asked in both.items() if asked == 100}


@pytest.mark.parametrize("split", [Split.TRAIN, Split.EVAL, None])
@pytest.mark.parametrize(
    "constraint",
    [
        {"guided_json": {"type": "object"}},
        {"guided_regex": "[0-9]+"},
        {"guided_choice": ["a", "b"]},
        {"guided_grammar": "root ::= 'a'"},
        {"guided_json_object": True},
        {"structured_outputs": {"json": {"type": "object"}}},
        {"structural_tag": {"structures": []}},
        {"regex": "[0-9]+"},
        {"ebnf": "root ::= 'a'"},
    ],
)
def test_constraints_pass_and_are_not_trained_on(constraint: dict[str, Any], split: Split | None) -> None:
    whose = claims(split) if split else None
    prepared = prepared_of({"messages": [], **constraint}, whose)
    assert prepared.untrainable == "guided_decoding"
    assert body(prepared).items() >= constraint.items()


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"guided_json": None, "guided_choice": [], "guided_json_object": False, "structured_outputs": {}},
        {"response_format": {"type": "json_object"}},
        {"guided_decoding_backend": "outlines"},
    ],
)
def test_what_constrains_nothing_is_trained_on(request_: dict[str, Any]) -> None:
    assert prepared_of({"messages": [], **request_}, claims(Split.TRAIN)).untrainable is None


@pytest.mark.parametrize(
    "altered",
    [
        {"logit_bias": {"5": 1}},
        {"allowed_token_ids": [1]},
        {"bad_words": ["x"]},
        {"min_tokens": 3},
        {"thinking_token_budget": 8},
        {"logits_processors": ["p"]},
        {"custom_logit_processor": "p"},
        {"vllm_xargs": {"a": 1}},
        {"use_beam_search": True},
        {"best_of": 2},
        {"echo": True},
    ],
)
def test_what_alters_sampling_passes_where_it_is_not_removed_and_is_not_trained_on(
    altered: dict[str, Any],
) -> None:
    for whose in (None, claims(Split.EVAL)):
        prepared = prepared_of({"messages": [], **altered}, whose)
        assert prepared.untrainable == "altered_sampling"
        assert body(prepared).items() >= altered.items()
    assert prepared_of({"messages": [], **altered}, claims(Split.TRAIN)).untrainable is None


def test_neutral_values_of_what_alters_sampling() -> None:
    neutral: dict[str, Any] = {
        "logit_bias": {},
        "bad_words": None,
        "min_tokens": 0,
        "use_beam_search": False,
        "best_of": 1,
    }
    assert prepared_of({"messages": [], "echo": False, **neutral}, None).untrainable is None


def test_evaluation_fills_what_is_missing_only() -> None:
    filled = prepared_of({}, claims(Split.EVAL, temperature=0.0, max_tokens=9))
    assert body(filled) == {"temperature": 0.0, "max_tokens": 9, **CAPTURE}
    asked = {"temperature": 0.5, "max_completion_tokens": 100, "top_p": 0.9}
    kept = prepared_of(asked, claims(Split.EVAL, temperature=0.0, max_tokens=9))
    assert body(kept) == {**asked, **CAPTURE}
    assert (kept.forced, used(kept).overridden, used(kept).max_tokens) == (False, {}, 100)


def test_without_a_token_sampling_is_the_caller_s() -> None:
    prepared = prepared_of({"model": "calculator", "top_k": 5}, None)
    assert body(prepared) == {"top_k": 5, **CAPTURE}
    assert (used(prepared).temperature, used(prepared).top_k) == (None, 5)


def test_usage_of_streams_is_asked_for() -> None:
    prepared = prepared_of({"stream": True, "stream_options": {"x": 1}}, None)
    assert body(prepared)["stream_options"] == {"x": 1, "include_usage": True}
    assert prepared.wants == Wants()
    assert "stream_options" not in body(prepared_of({"stream": False}, None))
    assert body(prepared_of({"stream": True, "stream_options": 3}, None))["stream_options"] == 3


def test_what_the_caller_asked_for_itself() -> None:
    request = {"logprobs": True, "return_token_ids": True, "stream_options": {"include_usage": True}}
    assert prepared_of(request, None).wants == Wants(token_ids=True, logprobs=True, usage=True)


@pytest.mark.parametrize(
    ("asked", "sent", "wanted"),
    [(None, 1, False), (0, 0, True), (5, 5, True), (-1, -1, True), (True, 1, True)],
)
def test_text_completions_ask_for_logprobs_by_number(asked: Any, sent: int, wanted: bool) -> None:
    prepared = prepared_of({"prompt": "x", "logprobs": asked}, None, Protocol.COMPLETIONS)
    assert (body(prepared)["logprobs"], prepared.wants.logprobs) == (sent, wanted)


@pytest.mark.parametrize(
    ("request_", "choices"),
    [
        ({"prompt": "x"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["x", "y"]}, 2),
        ({"prompt": [[1], [2, 3]], "n": 2}, 4),
        ({"prompt": []}, 1),
        ({}, 1),
    ],
)
def test_text_completions_answer_every_prompt(request_: dict[str, Any], choices: int) -> None:
    prepared = prepared_of(request_, None, Protocol.COMPLETIONS)
    assert (prepared.choices, prepared.path) == (choices, "/v1/completions")


def test_what_is_not_captured_passes_as_it_is() -> None:
    request = of({"input": "x", "temperature": 0.5, "stream": True})
    prepared = untouched(request, "/v1/embeddings")
    assert body(prepared) == {"input": "x", "temperature": 0.5, "stream": True}
    assert prepared.wants == Wants(token_ids=True, logprobs=True, usage=True)
    assert (prepared.path, used(prepared).temperature, prepared.forced) == ("/v1/embeddings", 0.5, False)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.just({}),
    st.just([]),
    st.just(10**400),
)
NAMES = st.sampled_from(
    [
        "temperature",
        "n",
        "seed",
        "stream",
        "stream_options",
        "max_tokens",
        "logprobs",
        "prompt",
        *FORCED,
        *REMOVED,
        *CONSTRAINTS,
    ]
)


@given(
    st.dictionaries(NAMES, VALUES),
    st.sampled_from([None, claims(Split.TRAIN), claims(Split.EVAL), claims(Split.TRAIN, max_tokens=8)]),
    st.sampled_from([Protocol.CHAT, Protocol.COMPLETIONS]),
)
def test_no_value_of_a_parameter_breaks_it(
    request: dict[str, Any], whose: RolloutClaims | None, protocol: Protocol
) -> None:
    fields = of(request)
    before = dict(fields)
    n = request.get("n")
    if n is not None and (type(n) is not int or n < 1):
        with pytest.raises(InvalidRequest, match="whole number"):
            prepare(fields, whose, protocol)
        return
    prepared = prepare(fields, whose, protocol)
    assert fields == before
    sent = body(prepared)
    assert sent["return_token_ids"] is True
    assert prepared.choices >= 1
    used(prepared)
    if prepared.forced:
        assert not set(sent) & set(REMOVED)
        assert {name: sent[name] for name in FORCED} == FORCED


@pytest.mark.parametrize("n", ["2", 2.0, True, 0, -1, [2]])
def test_alternatives_that_some_servers_would_count_otherwise_are_refused(n: Any) -> None:
    request = of({"messages": [], "n": n})
    with pytest.raises(InvalidRequest) as caught:
        prepare(request, None)
    assert caught.value.param == "n"
    with pytest.raises(InvalidRequest):
        untouched(request, "/v1/chat/completions")


def test_prompts_of_a_text_completion_count_wherever_it_goes() -> None:
    request = of({"prompt": ["a", "b", "c"], "n": 2})
    assert prepare(request, None, Protocol.COMPLETIONS).choices == 6
    assert untouched(request, "/v1/completions").choices == 6
    assert untouched(of({"messages": [], "prompt": ["a", "b"]}), "/v1/chat/completions").choices == 1
