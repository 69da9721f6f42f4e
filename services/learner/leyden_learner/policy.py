"""The policy in training and the one it is held to: what is trained, how it scores, what is published.

With adapters both are one model: switched off, it is the reference.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leyden_learner import lora
from leyden_learner.adapter_folder import is_adapter
from leyden_learner.collate import MicroBatch, weightless
from leyden_learner.lora_files import begin_with, refuse_without_rank, write_adapter
from leyden_learner.model import (
    TokenScores,
    choose_device,
    compile_layers,
    layers,
    load_model,
    spare_activations,
    token_logprobs,
)
from leyden_learner.probing import probe
from leyden_learner.settings import LearnerSettings
from leyden_learner.team import Team
from leyden_platform.probe import write_probe

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


class CannotCompile(RuntimeError):
    """The layers were to be compiled and cannot be; the text says what is missing."""


class _Scorer(nn.Module):
    """A model that scores: calling it is what puts the shares of several ranks together."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch) -> TokenScores:
        return token_logprobs(self.model, batch)


class Policy:
    """A causal LM, its trainable parameters and, for a KL term, its reference. Parameters are fp32.

    With a team each rank holds a share of both.
    """

    def __init__(
        self,
        model: Any,
        reference: Any | None,
        *,
        compute: torch.dtype | None = None,
        team: Team | None = None,
    ) -> None:
        self.model, self._reference, self._compute = model, reference, compute
        self.team = team or Team()
        self.device: torch.device = next(model.parameters()).device
        self._scorer = self._shared(model)
        self._reference_scorer: _Scorer | None = None
        if reference is not None:
            self._reference_scorer = self._scorer if reference is model else self._shared(reference)

    def rehearse(self) -> None:
        """Score something, so that what has to be compiled is. Raises ``CannotCompile``."""
        # Sizes that no model has: those that are alike here would have to be alike ever after.
        batch = replace(weightless([0] * 23), row_lengths=(5, 7, 11)).to(self.device)
        try:
            self.score(batch).logprobs_n.sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            what = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            raise CannotCompile(
                f"LEYDEN_LEARNER_COMPILE: {what}. A CPU "
                "needs a C++ compiler (g++, or what CXX names), a GPU Triton and a C compiler; install it or "
                "leave the setting out"
            ) from error
        self.model.zero_grad()

    @property
    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def score(self, batch: MicroBatch) -> TokenScores:
        """Log-probabilities of the sampled tokens, with gradient."""
        with self._precision():
            scores: TokenScores = self._scorer(batch)
        return scores

    @torch.no_grad()
    def reference_logprobs(self, batch: MicroBatch) -> Tensor | None:
        """The same of the reference, without gradient; None when there is none."""
        if self._reference_scorer is None:
            return None
        with lora.switched_off(self._reference), self._precision():
            scores: TokenScores = self._reference_scorer(batch)
        return scores.logprobs_n

    def save(self, folder: Path, settings: LearnerSettings) -> None:
        """Write what is published and its probe: a model with adapters merged in, or the adapters alone.

        One rank writes what all of them hold.
        """
        alone = settings.publish == "adapter"
        weights = self.team.collect(lora.published(self.model) if alone else lora.merged(self.model))
        answered = probe(self._scorer, self.model.config.get_text_config(), self.device)
        if not self.team.leads:
            return
        if alone:
            write_adapter(folder, weights, settings)
        else:
            self.model.save_pretrained(folder, state_dict=weights)
        write_probe(folder, answered)

    def _shared(self, model: Any) -> _Scorer:
        scorer = _Scorer(model)
        self.team.shard(scorer, layers(model))
        return scorer

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, self._compute, enabled=self._compute is not None):
            yield


def load_policy(settings: LearnerSettings, weights: Path, reference: Path) -> Policy:
    """The policy whose weights are in a folder; with adapters, its own or new ones over the reference.

    Raises ``UnsupportedModel``, ``NoSuchLayers``, ``OtherAdapters`` and ``CannotCompile``.
    """
    refuse_without_rank(weights, settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, held = choose_device(settings.device), settings.kl_coefficient > 0
    model = load_model(reference if settings.lora_rank else weights, device, packing=settings.packing)
    if settings.lora_rank:
        lora.inject(
            model, rank=settings.lora_rank, alpha=settings.adapter_alpha, targets=settings.lora_targets
        )
        lora.check_servable(model, settings)
        if is_adapter(weights):
            begin_with(weights, lora.adapters(model), settings)
        frozen = model if held else None
    else:
        frozen = load_model(reference, device, packing=settings.packing) if held else None
        if frozen is not None:
            frozen.requires_grad_(requires_grad=False)
    if settings.activation_checkpointing:
        spare_activations(model)
    if settings.compile:
        compile_layers(model)
    policy = Policy(model, frozen, compute=_PRECISIONS[settings.precision])
    if settings.compile:
        policy.rehearse()
    return policy
