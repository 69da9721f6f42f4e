"""The running batch: joining, leaving and prefix reuse never change what is sampled."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from leyden_inference.architecture import Architecture
from leyden_inference.batch import Batch, BatchLimits, Sequence, similar_lengths
from leyden_inference.decoder import Decoder
from leyden_inference.sampling import Draws, SamplingParams
from leyden_inference.weights import fuse, read_tensors

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"
ARCH = Architecture.load(SEED)
DECODER = Decoder(ARCH, fuse(read_tensors(SEED), ARCH))
EOS = frozenset({2})
NEVER: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def reference() -> Any:
    """The same folder in transformers, fp32."""
    model: Any = AutoModelForCausalLM.from_pretrained(SEED, dtype=torch.float32)
    return model.eval()


def recomputed(model: Any, sequence: Sequence) -> torch.Tensor:
    """Log-probabilities of the sampled tokens in one plain forward pass."""
    ids = torch.tensor([sequence.prompt + sequence.tokens])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
    start = len(sequence.prompt)
    picked: torch.Tensor = logprobs[start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)
    return picked


def sequence(prompt: list[int], **params: Any) -> Sequence:
    chosen = SamplingParams(**params)
    return Sequence(prompt, chosen, draws=Draws(chosen.seed))


def prompts(count: int, rng: random.Random) -> list[list[int]]:
    """Prompts with shared beginnings of many lengths."""
    shared = [rng.randrange(3, 490) for _ in range(70)]
    return [
        shared[: rng.randrange(0, 70)] + [rng.randrange(3, 490) for _ in range(rng.randrange(1, 60))]
        for _ in range(count)
    ]


def finish(batch: Batch, sequences: list[Sequence]) -> None:
    for _ in range(5000):
        if all(s.finished for s in sequences):
            return
        batch.step()
    raise AssertionError("the batch did not finish")


def test_logprobs_equal_a_plain_forward_pass_whoever_joins_and_leaves(reference: Any) -> None:
    rng = random.Random(5)
    batch = Batch(DECODER, NEVER, BatchLimits(rows=6, prefill_tokens=128, prefix_tokens=640))
    sequences = [
        sequence(prompt, max_tokens=rng.randrange(1, 30), temperature=rng.choice([0.0, 0.7, 1.0]))
        for prompt in prompts(30, rng)
    ]
    waiting = list(sequences)
    while waiting:
        batch.waiting.extend(waiting[:3])
        del waiting[:3]
        for _ in range(rng.randrange(4)):
            batch.step()
    finish(batch, sequences)
    assert batch.idle
    assert any(s.cached for s in sequences), "prefixes were reused"
    for one in sequences:
        assert len(one.tokens) == one.params.max_tokens
        torch.testing.assert_close(torch.tensor(one.logprobs), recomputed(reference, one), atol=1e-4, rtol=0)


def test_a_prompt_longer_than_a_chunk_is_computed_in_parts(
    reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leyden_inference.batch.CHUNK", 32)
    rng = random.Random(6)
    batch = Batch(DECODER, NEVER, BatchLimits(rows=4, prefill_tokens=4096))
    sequences = [
        sequence([rng.randrange(3, 490) for _ in range(length)], max_tokens=4) for length in (110, 90, 100)
    ]
    batch.waiting.extend(sequences)
    finish(batch, sequences)
    for one in sequences:
        torch.testing.assert_close(torch.tensor(one.logprobs), recomputed(reference, one), atol=1e-4, rtol=0)


def test_the_context_can_be_filled_to_its_last_position(reference: Any) -> None:
    batch = Batch(DECODER, NEVER, BatchLimits(rows=2))
    one = sequence([7] * (ARCH.context - 3), max_tokens=3)
    batch.waiting.append(one)
    finish(batch, [one])
    assert len(one.prompt + one.tokens) == ARCH.context
    torch.testing.assert_close(torch.tensor(one.logprobs), recomputed(reference, one), atol=1e-4, rtol=0)


def test_the_end_token_ends_a_sequence_and_is_part_of_it() -> None:
    batch = Batch(DECODER, frozenset(range(ARCH.vocabulary)), BatchLimits(rows=2))
    ends, ignores = sequence([5, 6], max_tokens=9), sequence([5, 6], max_tokens=3, ignore_eos=True)
    batch.waiting.extend([ends, ignores])
    finish(batch, [ends, ignores])
    assert (ends.finished, len(ends.tokens), len(ends.logprobs)) == ("stop", 1, 1)
    assert (ignores.finished, len(ignores.tokens)) == ("length", 3)


def test_no_more_rows_than_allowed_and_first_come_first_served() -> None:
    batch = Batch(DECODER, NEVER, BatchLimits(rows=2))
    sequences = [sequence([index + 3], max_tokens=3) for index in range(5)]
    batch.waiting.extend(sequences)
    order: list[Sequence] = []
    for _ in range(20):
        order += [s for s in batch.step() if s.finished]
        assert len(batch.running) <= 2
    assert {id(s) for s in order[:2]} == {id(s) for s in sequences[:2]}
    assert len(order) == 5


def test_an_abandoned_sequence_leaves_waiting_or_running() -> None:
    batch = Batch(DECODER, NEVER, BatchLimits(rows=1))
    running, waiting, other = (sequence([9], max_tokens=200) for _ in range(3))
    batch.waiting.extend([running, waiting, other])
    batch.step()
    running.abandoned = waiting.abandoned = True
    changed = batch.step()
    assert [running.finished, waiting.finished] == ["abort", "abort"]
    assert running in changed
    assert waiting in changed
    assert batch.running == [other]


def test_a_prefill_bound_lets_decoding_go_on_between() -> None:
    batch = Batch(DECODER, NEVER, BatchLimits(rows=8, prefill_tokens=50, prefix_tokens=0))
    first = sequence([3] * 40, max_tokens=50)
    batch.waiting.append(first)
    batch.step()
    batch.waiting.extend(sequence([4] * 40, max_tokens=50) for _ in range(3))
    grown = len(first.tokens)
    batch.step()
    assert len(batch.running) == 2
    assert len(first.tokens) == grown + 1


def test_a_model_without_valid_probabilities_ends_its_sequences_with_an_error() -> None:
    broken = fuse(read_tensors(SEED), ARCH)
    broken.final_norm.fill_(float("nan"))
    batch = Batch(Decoder(ARCH, broken), EOS, BatchLimits(rows=2))
    one = sequence([5], max_tokens=5)
    batch.waiting.append(one)
    finish(batch, [one])
    assert one.finished == "error"


def test_similar_lengths_are_computed_together() -> None:
    lengths = [1, 10, 17, 40, 300, 310]
    groups = similar_lengths([sequence([3] * length) for length in lengths])
    assert [[s.to_compute for s in group] for group in groups] == [[1, 10, 17], [40], [300, 310]]
