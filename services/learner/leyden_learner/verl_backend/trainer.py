"""One policy in training on verl's engine: the same samples in and the same checkpoints out as with torch.

verl computes passes, losses, clipping and the optimizer's step. Batches, weights of tokens, learning rates,
the health guards and the layout of checkpoints are the learner's own, so that a run can change its backend.
"""

import contextlib
import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from leyden_learner import lora
from leyden_learner.adapter_folder import is_adapter
from leyden_learner.collate import MicroBatch, collate, split, weigh
from leyden_learner.health import HealthLimits, NonFiniteWeights, Unhealthy, verdict
from leyden_learner.lora_files import begin_with, refuse_without_rank, write_adapter
from leyden_learner.measurements import Tally, describe
from leyden_learner.model import choose_device
from leyden_learner.objective.aggregation import aggregation
from leyden_learner.outcome import Outcome, Ruined, Skipped, Trained
from leyden_learner.settings import LearnerSettings
from leyden_learner.step import learning_rate, objective_config
from leyden_learner.trainer_state import pack_state, restore_state, whole, write_state
from leyden_learner.verl_backend.engine import build_engine
from leyden_learner.verl_backend.probing import probe_of
from leyden_platform.probe import write_probe
from leyden_schemas import TrainingSample


class VerlTrainer:
    """An engine, and one for the reference unless adapters can be switched off. One step at a time."""

    def __init__(self, settings: LearnerSettings, weights: Path, reference: Path) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._settings, self._device = settings, choose_device(settings.device)
        self._base = reference
        refuse_without_rank(weights, settings)
        adapted, held = settings.lora_rank > 0, settings.kl_coefficient > 0
        self._engine = build_engine(settings, reference if adapted else weights, lora=adapted)
        self._reference: Any = None
        if held:
            self._reference = self._engine if adapted else build_engine(settings, reference, lora=False)
        # Imported after the platform is set, which happens when an engine is built.
        from leyden_learner.verl_backend.loss import actor_config

        self._objective = objective_config(settings)
        self._actor = actor_config(self._objective)
        self._aggregation = aggregation(settings.recipe.aggregation, length=settings.fixed_length)
        self._limits = HealthLimits(max_kl=settings.max_kl, max_ratio=settings.max_ratio)
        self._parameters = {
            name.removeprefix(lora.PEFT_PREFIX): value
            for name, value in self._engine.module.named_parameters()
            if value.requires_grad
        }
        if adapted:
            lora.check_servable(self._engine.module, settings)
            if is_adapter(weights):
                begin_with(weights, self._parameters, settings)
        self.step = 0

    @classmethod
    def begin(cls, settings: LearnerSettings, weights: Path, reference: Path) -> "VerlTrainer":
        """A fresh optimizer over the weights in a folder."""
        torch.manual_seed(settings.seed)
        return cls(settings, weights, reference)

    @classmethod
    def resume(cls, settings: LearnerSettings, checkpoint: Path, reference: Path) -> "VerlTrainer":
        """The trainer as it was when it saved this checkpoint. Raises ``TrainerStateMissing``."""
        trainer = cls(settings, checkpoint, reference)
        trainer.step = restore_state(
            checkpoint, trainer._parameters, trainer._engine.optimizer, trainer._device
        )
        return trainer

    @property
    def vocabulary(self) -> int:
        """Token ids lie below this."""
        return int(self._text_config.vocab_size)

    @property
    def max_positions(self) -> int:
        """Tokens of the longest row the model takes."""
        return int(getattr(self._text_config, "max_position_embeddings", sys.maxsize))

    def advance(self, samples: Sequence[TrainingSample], version: int) -> Outcome:
        """Train one step on these samples, ``version`` being the policy's newest.

        An unhealthy pass leaves weights and optimizer as they were before the step.
        """
        started_s = time.perf_counter()
        settings = self._settings
        rows = weigh(samples, self._aggregation)
        parts = split(rows, settings.micro_batch_tokens, packed=settings.packing)
        batches = [collate(part).to(self._device) for part in parts]
        references = [self._reference_logprobs(batch) for batch in batches]
        before = self._snapshot() if settings.epochs > 1 else None
        lr = self._set_lr()
        anchors: list[Tensor] | None = None
        metrics = describe(samples, version) | {
            "lr": lr,
            "input_tokens": float(sum(map(self._input_tokens, batches))),
        }
        for _ in range(settings.epochs):
            tally = self._accumulate(batches, references, anchors)
            metrics |= tally.means()
            reason = self._verdict(tally, 0.0)
            if reason is None:
                # It clips and steps in one, and does not step when the norm is not finite.
                metrics["grad_norm"] = float(self._engine.optimizer_step())
                reason = self._verdict(tally, metrics["grad_norm"])
            metrics["seconds"] = time.perf_counter() - started_s
            if reason:
                self._give_up(before)
                return Skipped(reason, metrics)
            if not self._finite():
                self._give_up(before)
                return (Skipped if before else Ruined)(Unhealthy.NON_FINITE_WEIGHTS, metrics)
            anchors = anchors or tally.logprobs
        self._engine.optimizer_zero_grad()
        self.step += 1
        return Trained(metrics | {"seconds": time.perf_counter() - started_s})

    def save(self, folder: Path) -> None:
        """Write weights and configuration as Hugging Face does, and the trainer's own state in a subfolder.

        Raises ``NonFiniteWeights`` instead of saving what could not be served, and ``OSError``.
        """
        if not self._finite():
            raise NonFiniteWeights(f"the weights after step {self.step} are not finite")
        try:
            if self._settings.publish == "adapter":
                own = {n: whole(v).cpu() for n, v in lora.published(self._engine.module).items()}
                write_adapter(folder, own, self._settings)
            else:
                self._save_weights(folder)
            write_probe(folder, probe_of(folder, self._base))
            write_state(folder, self._state(), self.step)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    def _finite(self) -> bool:
        return all(bool(whole(value.detach()).isfinite().all()) for value in self._parameters.values())

    @property
    def _text_config(self) -> Any:
        return self._engine.model_config.hf_config.get_text_config()

    def _input_tokens(self, batch: MicroBatch) -> int:
        lengths = batch.row_lengths or ()
        return sum(lengths) if self._settings.packing else len(lengths) * max(lengths)

    def _verdict(self, tally: Tally, grad_norm: float) -> Unhealthy | None:
        return verdict(
            loss=tally.loss,
            grad_norm=grad_norm,
            ratio_max=tally.ratio_max,
            kl=tally.means()["kl_sampler"],
            limits=self._limits,
        )

    def _accumulate(
        self,
        batches: Sequence[MicroBatch],
        references: Sequence[Tensor | None],
        anchors: Sequence[Tensor] | None,
    ) -> Tally:
        from leyden_learner.verl_backend.batch import tensordict
        from leyden_learner.verl_backend.loss import VerlLoss

        tally = Tally()
        self._engine.optimizer_zero_grad()
        with self._engine.train_mode(zero_grad_on_exit=False):
            for index, (batch, reference_n) in enumerate(zip(batches, references, strict=True)):
                anchor_n = anchors[index] if anchors else None
                loss = VerlLoss(self._objective, self._actor, batch, reference_n, anchor_n, tally)
                self._engine.forward_backward_batch(
                    tensordict(batch, packing=self._settings.packing), loss, forward_only=False
                )
        return tally

    def _reference_logprobs(self, batch: MicroBatch) -> Tensor | None:
        if self._reference is None:
            return None
        from leyden_learner.verl_backend.batch import sampled, tensordict

        apart = self._engine.disable_adapter() if self._settings.lora_rank else contextlib.nullcontext()
        with self._reference.eval_mode(), apart:
            found = self._reference.infer_batch(tensordict(batch, packing=self._settings.packing))
        return sampled(found["model_output"]["log_probs"], batch).float()

    def _set_lr(self) -> float:
        lr = learning_rate(self._settings, self.step)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        weights = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        return weights, copy.deepcopy(self._engine.optimizer.state_dict())

    @torch.no_grad()
    def _give_up(self, before: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        self._engine.optimizer_zero_grad()
        if before:
            for name, value in before[0].items():
                self._parameters[name].copy_(value)
            self._engine.optimizer.load_state_dict(before[1])

    def _state(self) -> dict[str, Tensor]:
        adapters = {
            name.removeprefix(lora.PEFT_PREFIX): value
            for name, value in lora.adapters(self._engine.module).items()
        }
        return pack_state(self._parameters, adapters, self._engine.optimizer, self._device)

    def _save_weights(self, folder: Path) -> None:
        """With an empty model of the same kind, as verl's own manager of checkpoints does."""
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        state = {
            name.removeprefix(lora.PEFT_PREFIX): whole(value).cpu()
            for name, value in lora.merged(self._engine.module).items()
        }
        empty: Any = AutoModelForCausalLM
        with torch.device("meta"):
            model = empty.from_config(self._engine.model_config.hf_config, dtype=torch.float32)
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        model.save_pretrained(folder, state_dict=state)
