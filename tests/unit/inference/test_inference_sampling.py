"""Sampling a batch: hand-worked distributions, filters, seeds and what logprobs mean."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden_inference.sampling import Draws, Sampler, SamplingParams, keep_only

LOGITS = [math.log(share) for share in (0.5, 0.25, 0.15, 0.1)]


def sampler(*params: SamplingParams) -> Sampler:
    return Sampler(params, [Draws(p.seed) for p in params])


def shares(params: SamplingParams, draws: int = 4000) -> dict[int, float]:
    """How often each token is drawn."""
    batch = sampler(*[params] * draws)
    counts = Counter(batch(torch.tensor([LOGITS] * draws)).tokens)
    return {token: count / draws for token, count in counts.items()}


def test_temperature_one_draws_the_distribution_itself() -> None:
    drawn = shares(SamplingParams())
    for token, share in enumerate((0.5, 0.25, 0.15, 0.1)):
        assert drawn[token] == pytest.approx(share, abs=0.04)


def test_temperature_a_half_squares_the_odds() -> None:
    total = 0.5**2 + 0.25**2 + 0.15**2 + 0.1**2
    assert shares(SamplingParams(temperature=0.5))[0] == pytest.approx(0.25 / total, abs=0.04)


def test_greedy_rows_take_the_likeliest_beside_sampled_ones() -> None:
    params = [SamplingParams(temperature=0.0), SamplingParams(seed=3), SamplingParams(temperature=0.0)]
    logits = torch.tensor([LOGITS, LOGITS, LOGITS[::-1]])
    for _ in range(20):
        sampled = sampler(*params)(logits)
        assert sampled.tokens[0] == 0
        assert sampled.tokens[2] == 3


@pytest.mark.parametrize(
    ("params", "possible"),
    [
        (SamplingParams(top_k=1), {0}),
        (SamplingParams(top_k=2), {0, 1}),
        (SamplingParams(top_k=99), {0, 1, 2, 3}),
        (SamplingParams(top_p=0.5), {0}),
        (SamplingParams(top_p=0.51), {0, 1}),
        (SamplingParams(top_p=0.75), {0, 1}),
        (SamplingParams(top_p=0.0001), {0}),
        # Among the two likeliest the first has 2/3, which passes 0.6 alone.
        (SamplingParams(top_k=2, top_p=0.6), {0}),
    ],
)
def test_filters_keep_exactly_these(params: SamplingParams, possible: set[int]) -> None:
    assert set(shares(params, 600)) == possible


def test_logprobs_are_those_of_the_raw_logits() -> None:
    params = SamplingParams(temperature=0.3, top_k=2, top_logprobs=3)
    sampled = sampler(params)(torch.tensor([LOGITS]) + 7.0)
    assert sampled.logprobs[0] == pytest.approx(LOGITS[sampled.tokens[0]], abs=1e-6)
    assert sampled.top is not None
    assert [token for token, _ in sampled.top[0]] == [0, 1, 2]
    assert [logprob for _, logprob in sampled.top[0]] == pytest.approx(LOGITS[:3], abs=1e-6)


def test_each_row_gets_as_many_likeliest_as_it_asked_for() -> None:
    batch = sampler(SamplingParams(top_logprobs=2), SamplingParams(), SamplingParams(top_logprobs=1))
    top = batch(torch.tensor([LOGITS] * 3)).top
    assert top is not None
    assert list(map(len, top)) == [2, 0, 1]


def test_a_seed_repeats_its_tokens_whatever_else_is_in_the_batch() -> None:
    def tokens(beside: int) -> list[int]:
        batch = sampler(*[SamplingParams()] * beside, SamplingParams(seed=11))
        return [batch(torch.tensor([LOGITS] * (beside + 1))).tokens[-1] for _ in range(30)]

    assert tokens(0) == tokens(5)
    assert len(set(tokens(0))) > 1


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]] * 500)
    assert set(sampler(*[SamplingParams()] * 500)(logits).tokens) == {1, 3}


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=30, unique=True),
    st.integers(0, 40),
    st.floats(0.01, 1.0),
)
def test_filters_keep_a_run_of_the_likeliest(logits: list[float], top_k: int, top_p: float) -> None:
    filtered = torch.tensor(logits)
    keep_only(filtered, top_k, top_p)
    order = torch.tensor(logits).argsort(descending=True).tolist()
    kept = [token for token in order if filtered[token] != float("-inf")]
    assert kept == order[: len(kept)]
    assert kept
    if top_k:
        assert len(kept) <= top_k
