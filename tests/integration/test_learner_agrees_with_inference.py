"""The learner's log-probabilities against those that inference reported, on the seed model."""

import random
from pathlib import Path

import pytest
import torch

from leyden_inference.batch import Batch, BatchLimits, Sequence
from leyden_inference.loading import Loader
from leyden_inference.sampling import Draws, SamplingParams
from leyden_learner.admission import Admission
from leyden_learner.collate import collate, weigh
from leyden_learner.model import load_model, token_logprobs
from leyden_learner.objective.aggregation import rollout_mean
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_row, make_sample, make_span
from leyden_learner.trainer import Trainer
from leyden_schemas import TrainingSample

SEED = Path(__file__).parents[2] / "examples" / "calculator" / "seed"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def samples() -> list[TrainingSample]:
    """Two turns each of a few conversations, sampled together; the second continues the first."""
    torch.set_num_threads(1)
    model = Loader().load_folder(SEED)
    rng = random.Random(7)
    batch = Batch(model.decoder, model.eos, BatchLimits(rows=8, prefill_tokens=256))
    first = sample(batch, [[rng.randrange(3, 400) for _ in range(rng.randint(5, 200))] for _ in range(6)])
    joints = [[*each.prompt, *each.tokens, *(rng.randrange(3, 400) for _ in range(9))] for each in first]
    second = sample(batch, joints)
    return [
        make_sample(
            index,
            make_row(
                [*later.prompt, *later.tokens],
                make_span(len(turn.prompt), turn.logprobs, advantage=1.0 - 2.0 * (index % 2)),
                make_span(len(later.prompt), later.logprobs, advantage=0.5),
            ),
        )
        for index, (turn, later) in enumerate(zip(first, second, strict=True))
    ]


def sample(batch: Batch, prompts: list[list[int]]) -> list[Sequence]:
    """Complete all prompts at temperature 1."""
    sequences = [
        Sequence(prompt, SamplingParams(max_tokens=30, ignore_eos=True), draws=Draws(index))
        for index, prompt in enumerate(prompts)
    ]
    batch.waiting.extend(sequences)
    while not batch.idle:
        batch.step()
    return sequences


def test_recomputed_logprobs_are_those_of_the_sampler(samples: list[TrainingSample]) -> None:
    batch = collate(weigh(samples, rollout_mean))
    with torch.no_grad():
        recomputed_n = token_logprobs(load_model(SEED, torch.device("cpu")), batch).logprobs_n
    assert len(recomputed_n) == 6 * 2 * 30
    assert (recomputed_n - batch.sampler_logprobs_n).abs().max().item() < TOLERANCE


def test_a_first_step_on_fresh_samples_is_on_policy(samples: list[TrainingSample]) -> None:
    settings = LearnerSettings(policy="tiny", threads=1, device="cpu", lr=1e-4, micro_batch_tokens=1024)
    trainer = Trainer.begin(settings, SEED, SEED)
    admission = Admission(
        policy="tiny",
        tenant="default",
        run="default",
        max_staleness=0,
        vocabulary=trainer.vocabulary,
        max_positions=trainer.max_positions,
    )
    assert [admission.refuses(each, 0) for each in samples] == [None] * len(samples)
    metrics = trainer.advance(samples, 0).metrics
    assert metrics["ratio_max"] == pytest.approx(1.0, abs=2 * TOLERANCE)
    assert metrics["clip_fraction"] == 0.0
    assert metrics["kl_sampler"] < TOLERANCE**2
