"""Log-probabilities of sampled tokens, against the plain computation row by row."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from leyden_learner import model as subject
from leyden_learner.attention import attend
from leyden_learner.collate import MicroBatch, collate, weigh
from leyden_learner.model import UnsupportedModel, load_model, token_logprobs
from leyden_learner.objective.aggregation import rollout_mean
from leyden_learner.testing import make_row, make_sample, make_span
from leyden_schemas import TrainingSample

CPU = torch.device("cpu")
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "padded"])
def packing(request: pytest.FixtureRequest) -> bool:
    """Whether rows lie end to end or are padded."""
    return bool(request.param)


@pytest.fixture(scope="module")
def model(model_folder: Path, packing: bool) -> Any:
    return load_model(model_folder, CPU, packing=packing)


@pytest.fixture
def batch(samples: list[TrainingSample], packing: bool) -> MicroBatch:
    return collate(weigh(samples, rollout_mean), packed=packing)


@pytest.fixture
def samples() -> list[TrainingSample]:
    """Rows of different lengths, one with two spans, one span at the very end."""
    return [
        make_sample(0, make_row([3, 1, 4, 1, 5, 9, 2, 6], make_span(1, [-1.0]), make_span(4, [-1.0] * 3))),
        make_sample(1, make_row([2, 7, 1], make_span(2, [-1.0]))),
        make_sample(2, make_row([31, 0, 30, 1, 29], make_span(3, [-1.0, -1.0]))),
    ]


def naive(model: Any, token_ids: list[int], position: int) -> float:
    """log p(token at position | what is before it), from a forward pass over the row alone."""
    with torch.no_grad():
        logits_v = model(input_ids=torch.tensor([token_ids[:position]])).logits[0, -1]
    return float(torch.log_softmax(logits_v, dim=-1)[token_ids[position]])


def test_batched_logprobs_equal_the_naive_ones(
    model: Any, samples: list[TrainingSample], batch: MicroBatch
) -> None:
    got = token_logprobs(model, batch).logprobs_n.tolist()
    expected = [
        naive(model, item.row.token_ids, position)
        for item in weigh(samples, rollout_mean)
        for span in item.row.spans
        for position in range(span.start, span.stop)
    ]
    assert got == pytest.approx(expected, abs=1e-5)


def test_entropy_is_that_of_the_next_token_distribution(
    model: Any, samples: list[TrainingSample], batch: MicroBatch
) -> None:
    entropies = token_logprobs(model, batch).entropies_n
    padded = collate(weigh(samples, rollout_mean), packed=False)
    with torch.no_grad():
        logits_bv = model(input_ids=padded.token_ids_bt).logits[padded.row_n, padded.position_n - 1]
    expected = torch.distributions.Categorical(logits=logits_bv).entropy()  # type: ignore[no-untyped-call]
    assert entropies.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert not entropies.requires_grad


def test_a_head_computed_in_parts_gives_the_same_gradient(
    model: Any, batch: MicroBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for elements in (subject.HEAD_ELEMENTS, 64):
        monkeypatch.setattr(subject, "HEAD_ELEMENTS", elements)
        model.zero_grad()
        scores = token_logprobs(model, batch)
        (scores.logprobs_n * batch.weights_n).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(model.model.embed_tokens.weight.grad.clone())
    assert torch.allclose(gradients[0], gradients[1], atol=1e-7)


def test_a_model_that_does_more_than_a_linear_head_is_refused(tmp_path: Path) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=8.0,
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    with pytest.raises(UnsupportedModel, match="scales or caps its logits"):
        load_model(tmp_path, CPU)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="cannot load"):
        load_model(tmp_path, CPU)


@pytest.mark.parametrize("window", [None, 1, 3, 99])
def test_packed_rows_see_themselves_alone(window: int | None) -> None:
    """Against attention row by row, with the mask written out."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    got, _ = attend(None, query, key, value, None, sliding_window=window, row_lengths=(5, 1, 3))
    start = 0
    for length in (5, 1, 3):
        rows = slice(start, start + length)
        scores = query[:, :, rows] @ key[:, :, rows].repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
        back = torch.arange(length)[:, None] - torch.arange(length)
        scores.masked_fill_((back < 0) | (back >= (window or 99)), -torch.inf)
        expected = scores.softmax(-1) @ value[:, :, rows].repeat_interleave(2, 1)
        assert torch.allclose(got[:, rows], expected.transpose(1, 2), atol=1e-6)
        start += length


def test_attention_of_other_kinds_is_refused() -> None:
    part = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="PACKING=false"):
        attend(None, part, part, part, None, softcap=50.0)


def test_a_model_that_carries_state_from_row_to_row_is_refused_packed_rows(tmp_path: Path) -> None:
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        full_attn_idxs=[1],
        initializer_range=0.5,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    Lfm2ForCausalLM(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    with pytest.raises(UnsupportedModel, match="from row to row; set LEYDEN_LEARNER_PACKING=false"):
        load_model(tmp_path, CPU)
    assert load_model(tmp_path, CPU, packing=False)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda tensors: tensors.pop(UP), rf"lack {UP}"),
        (lambda tensors: tensors.update({UP: torch.zeros(3, 3)}), rf"lack {UP}, or have it in another shape"),
        (lambda tensors: tensors[UP][0, 0].fill_(float("nan")), rf"{UP} holds NaN"),
    ],
)
def test_weights_that_are_not_all_there_are_refused(
    model_folder: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], wrong: str
) -> None:
    """transformers would fill them with random numbers and go on."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match=wrong):
        load_model(folder, CPU)
