"""One policy in training: a batch of samples in, changed weights and measurements out, or a refusal.

Everything is deterministic on a CPU in fp32: the same samples from the same state give the same weights. In a
team every rank does all of this at the same time, on its share of the rows and of the weights.
"""

import copy
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from leyden_learner.collate import MicroBatch, collate, idle, share_out, split, weigh
from leyden_learner.ema import MovingAverage
from leyden_learner.health import HealthLimits, NonFiniteWeights, Unhealthy, verdict
from leyden_learner.lora import adapters
from leyden_learner.measurements import Tally, describe
from leyden_learner.objective import Evidence, objective
from leyden_learner.objective.aggregation import aggregation
from leyden_learner.outcome import Outcome, Ruined, Skipped, Trained
from leyden_learner.policy import Policy, load_policy
from leyden_learner.settings import LearnerSettings
from leyden_learner.step import learning_rate, objective_config
from leyden_learner.trainer_state import pack_state, restore_state, write_state
from leyden_schemas import TrainingSample


class Trainer:
    """Model, optimizer and schedule. Not thread-safe; one step at a time."""

    def __init__(self, settings: LearnerSettings, policy: Policy, *, step: int = 0) -> None:
        self._settings, self._policy = settings, policy
        self.step = step
        self._device, self._team = policy.device, policy.team
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
        self._average = MovingAverage(self._parameters, settings.ema_decay) if settings.ema_decay else None

    @classmethod
    def begin(cls, settings: LearnerSettings, weights: Path, reference: Path) -> "Trainer":
        """A fresh optimizer over the weights in a folder."""
        torch.manual_seed(settings.seed)
        return cls(settings, load_policy(settings, weights, reference))

    @classmethod
    def resume(cls, settings: LearnerSettings, checkpoint: Path, reference: Path) -> "Trainer":
        """The trainer as it was when it saved this checkpoint. Raises ``TrainerStateMissing``."""
        trainer = cls(settings, load_policy(settings, checkpoint, reference))
        trainer.step = restore_state(
            checkpoint, trainer._parameters, trainer._optimizer, trainer._device, trainer._averages
        )
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

    def advance(self, samples: Sequence[TrainingSample], version: int) -> Outcome:
        """Train one step on these samples, ``version`` being the policy's newest.

        An unhealthy pass leaves weights and optimizer as they were before the step.
        """
        started_s = time.perf_counter()
        settings = self._settings
        batches = self._share_of(samples)
        references = [self._policy.reference_logprobs(batch) for batch in batches]
        before = self._snapshot() if settings.epochs > 1 else None
        anchors: list[Tensor] | None = None
        inputs = sum(batch.token_ids_bt.numel() for batch in batches if not batch.idle)
        metrics = describe(samples, version) | {
            "lr": self._set_lr(),
            "input_tokens": float(sum(self._team.gather(inputs))),
        }
        for _ in range(settings.epochs):
            tally, logprobs = self._accumulate(batches, references, anchors)
            grad_norm = self._clip()
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
            if not self._finite():
                self._give_up(before)
                return (Skipped if before else Ruined)(Unhealthy.NON_FINITE_WEIGHTS, metrics)
            anchors = anchors or logprobs
        if self._average:
            self._average.follow()
        self.step += 1
        return Trained(metrics | {"seconds": time.perf_counter() - started_s})

    def save(self, folder: Path) -> None:
        """Write weights and configuration as Hugging Face does, and the trainer's own state in a subfolder.

        Raises ``NonFiniteWeights`` instead of saving what could not be served, and ``OSError``.
        """
        if not self._finite():
            raise NonFiniteWeights(f"the weights after step {self.step} are not finite")
        published = self._average if self._settings.ema_published else None
        state = self._state()
        try:
            with published.in_place_of_weights() if published else nullcontext():
                self._policy.save(folder, self._settings)
            if self._team.leads:
                write_state(folder, state, self.step)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    def _share_of(self, samples: Sequence[TrainingSample]) -> list[MicroBatch]:
        """This rank's part of a step, in as many passes as the rank with the most of them makes."""
        settings = self._settings
        packed = settings.packing
        shares = share_out(weigh(samples, self._aggregation), self._team.size)
        parts = [list(split(rows, settings.micro_batch_tokens, packed=packed)) for rows in shares]
        batches = [collate(part, packed=packed) for part in parts[self._team.rank]]
        batches += [idle()] * (max(map(len, parts)) - len(batches))
        return [batch.to(self._device) for batch in batches]

    def _accumulate(
        self,
        batches: Sequence[MicroBatch],
        references: Sequence[Tensor | None],
        anchors: Sequence[Tensor] | None,
    ) -> tuple[Tally, list[Tensor]]:
        """Gradients of a pass over all batches, what all ranks measured, and this one's log-probabilities."""
        tally = Tally()
        logprobs: list[Tensor] = []
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
            logprobs.append(scores.logprobs_n.detach())
            if not batch.idle:
                tally.add(terms, scores.entropies_n, scores.logprobs_n)
        return Tally.total(self._team.gather(replace(tally, logprobs=[]))), logprobs

    def _clip(self) -> float:
        """Bound the gradient of all ranks together; its norm before."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._settings.grad_clip)
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def _finite(self) -> bool:
        """Whether the weights, on every rank, can be used."""
        own = all(bool(_held(value).isfinite().all()) for value in self._parameters.values())
        return all(self._team.gather(own))

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

    @property
    def _averages(self) -> dict[str, Tensor]:
        return self._average.values if self._average else {}

    def _state(self) -> dict[str, Tensor]:
        average = self._average if self._settings.ema_published else None
        unpublished = self._parameters if average else adapters(self._policy.model)
        return pack_state(self._parameters, unpublished, self._optimizer, self._device, self._averages)


def _held(value: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value
