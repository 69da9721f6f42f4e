"""A step of Leyden's torch backend, with all that the service does around it: decode, batch, checkpoint."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from torch import Tensor

from learner_bench.job import BETAS, CLIP_HIGH, CLIP_LOW, GRAD_CLIP, Job, Meter, run, timed
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.collate import MicroBatch, collate, split, weigh
from leyden_learner.measurements import Tally
from leyden_learner.objective.aggregation import rollout_mean
from leyden_learner.outcome import Trained
from leyden_learner.settings import LearnerSettings
from leyden_learner.trainer import Trainer
from leyden_platform.artifacts import artifact_digest
from leyden_schemas import TokenRow, TokenSpan, Topics, TrainingSample, decode, encode

_SPACE = UUID("00000000-0000-0000-0000-00000000beac")


class TimedTrainer(Trainer):
    """Knows how much of its last step was forward and backward passes."""

    passes_s = 0.0

    def _accumulate(
        self,
        batches: Sequence[MicroBatch],
        references: Sequence[Tensor | None],
        anchors: Sequence[Tensor] | None,
    ) -> tuple[Tally, list[Tensor]]:
        passed = partial(super()._accumulate, batches, references, anchors)
        found, self.passes_s = timed(passed)
        return found


def settings(job: Job) -> LearnerSettings:
    """GRPO as TRL and verl are told to do it."""
    return LearnerSettings(
        policy="bench",
        lr=job.lr,
        betas=BETAS,
        grad_clip=GRAD_CLIP,
        clip_low=CLIP_LOW,
        clip_high=CLIP_HIGH,
        packing=job.packed,
        micro_batch_tokens=job.micro_batch_tokens,
        threads=job.threads,
        device=job.device,
        precision=job.precision,
    )


def samples(job: Job) -> list[TrainingSample]:
    """The batch as the credit service publishes it."""
    return [
        TrainingSample(
            sample_id=uuid5(_SPACE, f"sample {index}"),
            rollout_id=uuid5(_SPACE, f"rollout {index}"),
            group_id=uuid5(_SPACE, f"group {rollout.group}"),
            policy="bench",
            rows=[
                TokenRow(
                    token_ids=rollout.token_ids,
                    spans=[
                        TokenSpan(
                            start=start,
                            logprobs=logprobs,
                            advantage=rollout.advantage,
                            version=0,
                            completion_id=uuid5(_SPACE, f"completion {index} {start}"),
                        )
                        for (start, _), logprobs in zip(rollout.turns, job.logprobs[index], strict=True)
                    ],
                )
            ],
            reward=rollout.reward,
            estimator="grpo",
            group_size=4,
            created_at="2026-01-01T00:00:00Z",
        )
        for index, rollout in enumerate(job.rollouts)
    ]


def measure(job: Job, meter: Meter) -> None:
    """Steps as the service makes them; ``step`` is what the peers are timed for."""
    chosen, model = settings(job), Path(job.model)
    messages = [encode(sample) for sample in samples(job)]
    store = CheckpointStore(Path(job.scratch), "bench", "bench")
    meter.begin()
    trainer = TimedTrainer.begin(chosen, model, model)
    assert isinstance(trainer, TimedTrainer)
    for _ in range(1 + job.runs):
        taken, decode_s = timed(lambda: [decode(Topics.SAMPLES, message) for message in messages])
        _, batch_s = timed(partial(batched, taken, chosen))
        with meter.step():
            outcome = trainer.advance(taken, 0)
        assert isinstance(outcome, Trained), outcome
        meter.first(outcome.metrics["loss"], outcome.metrics["grad_norm"])
        folder, checkpoint_s = timed(lambda: saved(store, trainer, model))
        shutil.rmtree(folder)
        for name, seconds in (
            ("decode", decode_s),
            ("batch", batch_s),
            ("passes", trainer.passes_s),
            ("checkpoint", checkpoint_s),
        ):
            meter.stage(name, seconds)
        meter.stepped()


def batched(taken: Sequence[TrainingSample], chosen: LearnerSettings) -> list[Any]:
    """What a step does before its first pass, once more, to know what it takes."""
    parts = split(weigh(taken, rollout_mean), chosen.micro_batch_tokens, packed=chosen.packing)
    return [collate(part, packed=chosen.packing) for part in parts]


def saved(store: CheckpointStore, trainer: Trainer, model: Path) -> Path:
    """A checkpoint as the service writes it, durable and with its digest."""
    folder = store.write(trainer.step, model, trainer.save)
    artifact_digest(folder)
    return folder


if __name__ == "__main__":
    run(measure)
