"""One policy in training: a batch of samples in, changed weights and measurements out, or a refusal.

Everything is deterministic on a CPU in fp32: the same samples from the same state give the same weights.
"""

import copy
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from leyden_learner.collate import MicroBatch, collate, split, weigh
from leyden_learner.health import HealthLimits, verdict
from leyden_learner.lora import adapters
from leyden_learner.objective import Evidence, ObjectiveConfig, Terms, objective
from leyden_learner.objective.aggregation import aggregation
from leyden_learner.outcome import Skipped, Trained
from leyden_learner.policy import Policy, load_policy
from leyden_learner.schedule import lr_factor
from leyden_learner.settings import LearnerSettings
from leyden_platform.artifacts import TRAINER_STATE
from leyden_schemas import TrainingSample

_STATE_FILE = "state.safetensors"
_ADAPTER = "adapter"
_OTHER_LORA = "go on with the LEYDEN_LEARNER_LORA_… settings it was made with, or start a new run"


class NonFiniteWeights(RuntimeError):
    """Weights hold NaN or infinity and are therefore not saved."""


class TrainerStateMissing(RuntimeError):
    """A checkpoint has no optimizer state, so training cannot go on from it exactly."""


@dataclass(slots=True)
class Tally:
    """Measurements of one pass over a batch, added up over its micro-batches."""

    loss: float = 0.0
    tokens: int = 0
    ratio_max: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    logprobs: list[Tensor] = field(default_factory=list)

    def add(self, terms: Terms, entropies_n: Tensor, logprobs_n: Tensor) -> None:
        """Count one micro-batch."""
        self.loss += terms.loss.item()
        self.tokens += len(logprobs_n)
        ratio_max = terms.ratio_n.max().item()
        self.ratio_max = ratio_max if math.isnan(ratio_max) else max(self.ratio_max, ratio_max)
        measured = {
            "clip_fraction": terms.clipped_n,
            "importance_weight": terms.importance_n,
            "kl_sampler": terms.kl_sampler_n,
            "kl_reference": terms.kl_reference_n,
            "entropy": entropies_n,
        }
        for name, values_n in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + values_n.float().sum().item()
        self.logprobs.append(logprobs_n.detach())

    def means(self) -> dict[str, float]:
        """Token means, the loss and the largest ratio."""
        means = {name: total / self.tokens for name, total in self.sums.items()}
        return {"loss": self.loss, "ratio_max": self.ratio_max, **means}


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
        recipe = settings.recipe
        self._objective = ObjectiveConfig(
            loss=recipe.loss,
            clip_low=recipe.clip_low,
            clip_high=recipe.clip_high,
            dual_clip=recipe.dual_clip,
            importance=settings.importance,
            importance_low=settings.importance_low,
            importance_cap=settings.importance_cap,
            kl=settings.kl,
            kl_coefficient=settings.kl_coefficient,
        )
        self._aggregation = aggregation(recipe.aggregation, length=settings.fixed_length)
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
        trainer._restore(checkpoint)
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
            raise NonFiniteWeights(f"the weights after step {self.step} are not finite; they are not saved")
        own = folder / TRAINER_STATE
        own.mkdir()
        try:
            self._policy.save(folder)
            save_file(self._state(), own / _STATE_FILE, metadata={"step": str(self.step)})
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
        settings = self._settings
        lr = settings.lr * lr_factor(
            self.step,
            warmup_steps=settings.warmup_steps,
            total_steps=settings.total_steps,
            schedule=settings.lr_schedule,
        )
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
        names = list(self._parameters)
        state = {
            f"{names[index]}:{slot}": value
            for index, slots in self._optimizer.state_dict()["state"].items()
            for slot, value in slots.items()
        }
        state |= {
            f"{name}:{_ADAPTER}": value.detach() for name, value in adapters(self._policy.model).items()
        }
        state["rng:cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            state["rng:cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def _restore(self, folder: Path) -> None:
        path = folder / TRAINER_STATE / _STATE_FILE
        if not path.is_file():
            raise TrainerStateMissing(f"{path} is missing; restore it, or start a new run from the version")
        names = {name: index for index, name in enumerate(self._parameters)}
        slots: dict[int, dict[str, Tensor]] = {}
        with safe_open(path, framework="pt") as stored:
            self.step = int(stored.metadata()["step"])
            stored_keys = list(stored.keys())
            for key in stored_keys:
                name, slot = key.rsplit(":", 1)
                if slot == _ADAPTER and name in names:
                    self._take(name, stored.get_tensor(key), path)
                elif name in names:
                    slots.setdefault(names[name], {})[slot] = stored.get_tensor(key)
                elif name != "rng":
                    raise TrainerStateMissing(
                        f"{path} is of {name}, which is not trained here; {_OTHER_LORA}"
                    )
            torch.set_rng_state(stored.get_tensor("rng:cpu"))
            if self._device.type == "cuda" and "rng:cuda" in stored_keys:
                torch.cuda.set_rng_state(stored.get_tensor("rng:cuda"), self._device)
        if self.step and len(slots) < len(names):
            raise TrainerStateMissing(f"{path} lacks {len(names) - len(slots)} parameters; {_OTHER_LORA}")
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})

    @torch.no_grad()
    def _take(self, name: str, value: Tensor, path: Path) -> None:
        own = self._parameters[name]
        if own.shape != value.shape:
            raise TrainerStateMissing(f"{path} has {name} as {tuple(value.shape)}; {_OTHER_LORA}")
        own.copy_(value)


def describe(samples: Sequence[TrainingSample], version: int) -> dict[str, float]:
    """What a batch is made of: rewards by rollout, advantages and staleness by sampled token."""
    rewards = [sample.reward for sample in samples]
    spans = [span for sample in samples for row in sample.rows for span in row.spans]
    tokens = sum(len(span.logprobs) for span in spans)
    advantage_mean = sum(span.advantage * len(span.logprobs) for span in spans) / tokens
    variance = sum((span.advantage - advantage_mean) ** 2 * len(span.logprobs) for span in spans) / tokens
    return {
        "rollouts": float(len(samples)),
        "rows": float(sum(len(sample.rows) for sample in samples)),
        "sampled_tokens": float(tokens),
        "reward_mean": statistics.fmean(rewards),
        "reward_std": statistics.pstdev(rewards),
        "advantage_mean": advantage_mean,
        "advantage_std": math.sqrt(variance),
        "advantage_max": max(abs(span.advantage) for span in spans),
        "staleness_mean": sum((version - span.version) * len(span.logprobs) for span in spans) / tokens,
    }
