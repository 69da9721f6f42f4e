"""One policy in training: a batch of samples in, changed weights and measurements out, or a refusal.

Everything is deterministic on a CPU in fp32: the same samples from the same state give the same weights.
"""

import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from leyden_learner.collate import MicroBatch, collate, split, weigh
from leyden_learner.health import HealthLimits, verdict
from leyden_learner.lora import adapters
from leyden_learner.measurements import Tally, describe
from leyden_learner.objective import Evidence, objective
from leyden_learner.objective.aggregation import aggregation
from leyden_learner.outcome import Skipped, Trained
from leyden_learner.policy import Policy, load_policy
from leyden_learner.settings import LearnerSettings
from leyden_learner.step import NonFiniteWeights, learning_rate, objective_config
from leyden_learner.trainer_state import pack_state, restore_state, write_state
from leyden_schemas import TrainingSample


class Trainer:
    """Model, optimizer and schedule. Not thread-safe; one step at a time."""

    def __init__(self, settings: LearnerSettings, policy: Policy, *, step: int = 0) -> None:
        self._settings, self._policy = settings, policy
        self.step = step
        self._device = policy.device
        self._parameters = policy.trainable
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._objective = objective_config(settings)
        self._aggregation = aggregation(settings.recipe.aggregation, length=settings.fixed_length)
        self._limits = HealthLimits(max_kl=settings.max_kl, max_ratio=settings.max_ratio)

    @classmethod
    def begin(cls, settings: LearnerSettings, weights: Path, reference: Path) -> "Trainer":
        """A fresh optimizer over the weights in a folder."""
        torch.manual_seed(settings.seed)
        return cls(settings, load_policy(settings, weights, reference))

    @classmethod
    def resume(cls, settings: LearnerSettings, checkpoint: Path, reference: Path) -> "Trainer":
        """The trainer as it was when it saved this checkpoint. Raises ``TrainerStateMissing``."""
        trainer = cls(settings, load_policy(settings, checkpoint, reference))
        trainer.step = restore_state(checkpoint, trainer._parameters, trainer._optimizer, trainer._device)
        return trainer

    @property
    def vocabulary(self) -> int:
        """Token ids lie below this."""
        return int(self._policy.model.config.get_text_config().vocab_size)

    @property
    def max_positions(self) -> int:
        """Tokens of the longest row the model takes."""
        config = self._policy.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", sys.maxsize))

    def advance(self, samples: Sequence[TrainingSample], version: int) -> Trained | Skipped:
        """Train one step on these samples, ``version`` being the policy's newest.

        An unhealthy pass leaves weights and optimizer as they were before the step.
        """
        started_s = time.perf_counter()
        settings = self._settings
        rows = weigh(samples, self._aggregation)
        parts = split(rows, settings.micro_batch_tokens, packed=settings.packing)
        batches = [collate(part, packed=settings.packing).to(self._device) for part in parts]
        references = [self._policy.reference_logprobs(batch) for batch in batches]
        before = self._snapshot() if settings.epochs > 1 else None
        lr = self._set_lr()
        anchors: list[Tensor] | None = None
        metrics = describe(samples, version) | {
            "lr": lr,
            "input_tokens": float(sum(batch.token_ids_bt.numel() for batch in batches)),
        }
        for _ in range(settings.epochs):
            tally = self._accumulate(batches, references, anchors)
            grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), settings.grad_clip).item()
            metrics |= tally.means() | {"grad_norm": grad_norm, "seconds": time.perf_counter() - started_s}
            reason = verdict(
                loss=tally.loss,
                grad_norm=grad_norm,
                ratio_max=tally.ratio_max,
                kl=metrics["kl_sampler"],
                limits=self._limits,
            )
            if reason:
                self._give_up(before)
                return Skipped(reason, metrics)
            self._optimizer.step()
            self._optimizer.zero_grad()
            anchors = anchors or tally.logprobs
        self.step += 1
        return Trained(metrics | {"seconds": time.perf_counter() - started_s})

    def save(self, folder: Path) -> None:
        """Write weights and configuration as Hugging Face does, and the trainer's own state in a subfolder.

        Raises ``NonFiniteWeights`` instead of saving what could not be served, and ``OSError``.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self._parameters.values()):
            raise NonFiniteWeights(self.step)
        try:
            self._policy.save(folder)
            write_state(folder, self._state(), self.step)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    def _accumulate(
        self,
        batches: Sequence[MicroBatch],
        references: Sequence[Tensor | None],
        anchors: Sequence[Tensor] | None,
    ) -> Tally:
        tally = Tally()
        for index, (batch, reference_n) in enumerate(zip(batches, references, strict=True)):
            scores = self._policy.score(batch)
            terms = objective(
                Evidence(
                    logprobs_n=scores.logprobs_n,
                    sampler_logprobs_n=batch.sampler_logprobs_n,
                    advantages_n=batch.advantages_n,
                    weights_n=batch.weights_n,
                    sequence_n=batch.sequence_n,
                    anchor_logprobs_n=anchors[index] if anchors else None,
                    reference_logprobs_n=reference_n,
                ),
                self._objective,
            )
            terms.loss.backward()  # type: ignore[no-untyped-call]
            tally.add(terms, scores.entropies_n, scores.logprobs_n)
        return tally

    def _set_lr(self) -> float:
        lr = learning_rate(self._settings, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        weights = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        return weights, copy.deepcopy(self._optimizer.state_dict())

    @torch.no_grad()
    def _give_up(self, before: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        self._optimizer.zero_grad()
        if before:
            for name, value in before[0].items():
                self._parameters[name].copy_(value)
            self._optimizer.load_state_dict(before[1])

    def _state(self) -> dict[str, Tensor]:
        return pack_state(self._parameters, adapters(self._policy.model), self._optimizer, self._device)
