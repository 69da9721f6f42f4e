"""Processes that train together: the same as one alone, and what happens when one of them is lost."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from leyden_learner.checkpoints import CheckpointNotWritten, CheckpointStore
from leyden_learner.health import NonFiniteWeights, Unhealthy
from leyden_learner.lora import NoSuchLayers
from leyden_learner.outcome import Ruined, Skipped, Trained
from leyden_learner.rank_group import OtherLauncher, RankedTrainer, RankGroup, RankLost, refuse_launchers
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_row, make_sample, make_span
from leyden_learner.trainer import Trainer
from leyden_platform.artifacts import TRAINER_STATE
from leyden_schemas import TrainingSample

pytestmark = pytest.mark.timeout(300)

SAMPLES = [make_sample(index) for index in range(9)]
DEADLINE_S = 60.0
Load = Callable[..., RankedTrainer]


def settings(**changes: Any) -> LearnerSettings:
    """Two ranks, at a learning rate at which one step shows."""
    defaults: dict[str, Any] = {"lr": 1e-2, "threads": 1, "device": "cpu", "data_parallel": 2}
    return LearnerSettings(policy="tiny", **(defaults | changes))


@pytest.fixture(scope="module")
def group() -> Iterator[RankGroup]:
    """Two ranks that train for one test after the other."""
    ranks = RankGroup(settings())
    ranks.start()
    yield ranks
    ranks.close()


@pytest.fixture
def load(group: RankGroup) -> Load:
    """Trainers of any settings on the same ranks."""

    def make(how: str, chosen: LearnerSettings, folder: Path, reference: Path) -> RankedTrainer:
        return RankedTrainer(group, group.call("load", how, chosen, folder, reference))

    return make


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", "tiny", "default")


def trained(trainer: Trainer | RankedTrainer, samples: list[TrainingSample]) -> dict[str, float]:
    """Measurements of a step that must succeed."""
    outcome = trainer.advance(samples, 0)
    assert isinstance(outcome, Trained)
    return outcome.metrics


def files(folder: Path) -> dict[str, dict[str, Tensor]]:
    """All tensors of a checkpoint, by file."""
    return {str(path.relative_to(folder)): load_file(path) for path in folder.rglob("*.safetensors")}


def assert_close(one: Path, other: Path) -> None:
    """Two checkpoints hold the same names, and the same numbers but for rounding."""
    left, right = files(one), files(other)
    published = left.keys() - {f"{TRAINER_STATE}/state.safetensors"}
    assert left.keys() == right.keys()
    assert published in ({"model.safetensors"}, {"adapter_model.safetensors"})
    for file, tensors in left.items():
        assert tensors.keys() == right[file].keys()
        for name, value in tensors.items():
            assert value.shape == right[file][name].shape
            assert torch.allclose(value.float(), right[file][name].float(), rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"micro_batch_tokens": 24, "weight_decay": 0.1}, id="accumulated"),
        pytest.param({"lora_rank": 4, "kl_coefficient": 0.1, "ema_decay": 0.5}, id="adapters"),
        pytest.param({"lora_rank": 3, "publish": "adapter"}, id="adapters alone"),
        pytest.param(
            {
                "kl_coefficient": 0.1,
                "epochs": 2,
                "importance_cap": 2.0,
                "ema_decay": 0.5,
                "grad_clip": 0.1,
                "warmup_steps": 2,
                "total_steps": 9,
                "lr_schedule": "cosine",
            },
            id="everything",
        ),
        pytest.param({"packing": False, "activation_checkpointing": True}, id="padded"),
        pytest.param({"objective": "gspo"}, id="gspo"),
    ],
)
def test_two_ranks_train_like_one(
    load: Load, model_folder: Path, store: CheckpointStore, changes: dict[str, Any]
) -> None:
    chosen = settings(**changes)
    alone = Trainer.begin(chosen, model_folder, model_folder)
    together = load("begin", chosen, model_folder, model_folder)
    assert (together.vocabulary, together.max_positions) == (alone.vocabulary, alone.max_positions)
    for _ in range(2):
        expected, found = trained(alone, SAMPLES), trained(together, SAMPLES)
        assert found.keys() == expected.keys()
        for name in expected.keys() - {"seconds", "input_tokens"}:
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
        if chosen.packing:
            assert found["input_tokens"] == expected["input_tokens"]
    assert together.step == alone.step == 2
    assert_close(store.write(2, model_folder, alone.save), store.write(2, model_folder, together.save))


@pytest.mark.parametrize("count", [1, 2])
def test_a_rank_without_rows_keeps_step(
    load: Load, model_folder: Path, store: CheckpointStore, count: int
) -> None:
    """One row for two ranks; then rows of 60 and 4 x 3 tokens, one pass on one rank and four on the other."""
    short = [
        make_sample(index, make_row([1 + index, 2, 3], make_span(1, [-3.4, -3.4]))) for index in range(4)
    ]
    long = make_sample(9, make_row([index % 32 for index in range(60)], make_span(5, [-3.4] * 9, -1.0)))
    samples = short[:1] if count == 1 else [long, *short]
    chosen = settings(micro_batch_tokens=3)
    alone = Trainer.begin(chosen, model_folder, model_folder)
    together = load("begin", chosen, model_folder, model_folder)
    for _ in range(2):
        expected, found = trained(alone, samples), trained(together, samples)
        for name in ("loss", "grad_norm", "entropy", "kl_sampler", "ratio_max", "input_tokens"):
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
    assert_close(store.write(1, model_folder, alone.save), store.write(1, model_folder, together.save))


@pytest.mark.parametrize(
    "changes",
    [{"ema_decay": 0.5, "kl_coefficient": 0.1}, {"lora_rank": 3}, {"lora_rank": 3, "publish": "adapter"}],
)
def test_any_number_of_ranks_goes_on(
    load: Load, model_folder: Path, store: CheckpointStore, changes: dict[str, Any]
) -> None:
    """One rank, then two, then one, like one throughout. Rank 3 does not divide by two."""
    chosen = settings(**changes)
    steady = Trainer.begin(chosen, model_folder, model_folder)
    trained(steady, SAMPLES)
    folder = store.write(1, model_folder, steady.save)
    for step, resume in ((2, load), (3, None)):
        trained(steady, SAMPLES)
        trainer: Trainer | RankedTrainer = (
            resume("resume", chosen, folder, model_folder)
            if resume
            else Trainer.resume(chosen, folder, model_folder)
        )
        assert trainer.step == step - 1
        trained(trainer, SAMPLES)
        folder = store.write(step, model_folder, trainer.save)
    assert_close(store.write(3, model_folder, steady.save), folder)


def test_two_ranks_resume_bit_for_bit(load: Load, model_folder: Path, store: CheckpointStore) -> None:
    steady = load("begin", settings(), model_folder, model_folder)
    trained(steady, SAMPLES)
    folder = store.write(1, model_folder, steady.save)
    ends = []
    for trainer in (steady, load("resume", settings(), folder, model_folder)):
        trained(trainer, SAMPLES)
        ends.append(files(store.write(2, model_folder, trainer.save))["model.safetensors"])
        steady = load("resume", settings(), folder, model_folder)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_all_ranks_refuse_the_same_step(load: Load, model_folder: Path, store: CheckpointStore) -> None:
    """What is wrong lies in one row, which only one rank has; both take the whole step back."""
    odd = make_sample(20, make_row([1, 2, 3], make_span(1, [-90.0], advantage=0.0)))
    trainer = load("begin", settings(max_ratio=100.0, epochs=2), model_folder, model_folder)
    before = store.write(1, model_folder, trainer.save)
    outcome = trainer.advance([*SAMPLES, odd], 0)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is Unhealthy.RATIO_EXPLOSION
    assert trainer.step == 0
    after = store.write(1, model_folder, trainer.save)
    assert files(before).keys() == files(after).keys()
    assert all(
        torch.equal(value, files(after)["model.safetensors"][name])
        for name, value in files(before)["model.safetensors"].items()
    )
    assert trained(trainer, SAMPLES)["grad_norm"] > 0


def test_weights_that_a_step_ruins_are_ruined_for_all(load: Load, model_folder: Path) -> None:
    trainer = load("begin", settings(lr=1e39), model_folder, model_folder)
    outcome = trainer.advance(SAMPLES, 0)
    assert isinstance(outcome, Ruined)
    assert outcome.reason is Unhealthy.NON_FINITE_WEIGHTS


def test_weights_that_answer_nothing_finite_are_saved_by_none(
    load: Load, model_folder: Path, store: CheckpointStore
) -> None:
    trainer = load("begin", settings(lr=1e18), model_folder, model_folder)
    trained(trainer, SAMPLES)
    with pytest.raises(NonFiniteWeights, match="what they answer"):
        store.write(1, model_folder, trainer.save)
    assert trained(load("begin", settings(), model_folder, model_folder), SAMPLES)["grad_norm"] > 0


def test_what_fails_on_every_rank_is_raised_as_it_is(load: Load, model_folder: Path) -> None:
    with pytest.raises(NoSuchLayers, match="LORA_TARGETS"):
        load("begin", settings(lora_rank=2, lora_targets=["wheels"]), model_folder, model_folder)


def test_a_folder_that_cannot_be_written_can_be_tried_again(
    load: Load, model_folder: Path, store: CheckpointStore
) -> None:
    trainer = load("begin", settings(), model_folder, model_folder)
    trained(trainer, SAMPLES)

    def in_the_way(folder: Path) -> None:
        (folder / TRAINER_STATE).mkdir()
        trainer.save(folder)

    with pytest.raises(CheckpointNotWritten, match="exists"):
        store.write(1, model_folder, in_the_way)
    assert files(store.write(1, model_folder, trainer.save))


def test_a_launcher_that_starts_several_is_refused() -> None:
    refuse_launchers({"WORLD_SIZE": "1"})
    with pytest.raises(OtherLauncher, match="LEYDEN_LEARNER_DATA_PARALLEL"):
        refuse_launchers({"WORLD_SIZE": "2"})


def ranks_of_this_process() -> dict[int, psutil.Process]:
    """Processes by rank number."""
    children = [
        child for child in psutil.Process().children() if "leyden_learner.rank" in " ".join(child.cmdline())
    ]
    return {int(child.environ()["LOCAL_RANK"]): child for child in children}


def train_on(trainer: RankedTrainer) -> None:
    """Until it fails, or long after it should have."""
    for _ in range(10_000):
        trainer.advance(SAMPLES, 0)


@pytest.mark.parametrize(
    ("signum", "how"), [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "no sign of life")]
)
def test_a_lost_rank_is_named_and_ends_all(
    group: RankGroup, model_folder: Path, signum: signal.Signals, how: str
) -> None:
    """In the middle of steps; nothing hangs, and nothing is left."""
    others = set(ranks_of_this_process().values())
    own = RankGroup(settings(rank_timeout_s=10.0))
    trainer = own.begin(model_folder, model_folder)
    ranks = {number: rank for number, rank in ranks_of_this_process().items() if rank not in others}
    trained(trainer, SAMPLES)
    os.kill(ranks[1].pid, signum)
    started_s = time.monotonic()
    with pytest.raises(RankLost, match=rf"rank 1 \(process {ranks[1].pid}\).*{how}"):
        train_on(trainer)
    assert time.monotonic() - started_s < DEADLINE_S
    with pytest.raises(RankLost, match=how):
        own.check()
    with pytest.raises(RankLost):
        trainer.save(model_folder)
    own.close()
    assert not any(rank.is_running() for rank in ranks.values())
