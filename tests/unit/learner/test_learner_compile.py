"""Compiled layers: the same as others, compiled once for all batches; and what is said without a compiler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config

from leyden_learner.outcome import Trained
from leyden_learner.policy import CannotCompile, load_policy
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_sample
from leyden_learner.trainer import Trainer

pytestmark = pytest.mark.timeout(400)

BATCHES = [[make_sample(index) for index in range(first, first + 2 + first)] for first in (1, 4, 9)]


def settings(**changes: Any) -> LearnerSettings:
    """One thread of a CPU, at a learning rate at which one step shows."""
    defaults: dict[str, Any] = {"policy": "tiny", "lr": 1e-2, "threads": 1, "device": "cpu"}
    return LearnerSettings(**(defaults | changes))


def test_compiled_layers_train_like_others(model_folder: Path) -> None:
    """Batches of other row counts and lengths make nothing compile again."""
    torch.compiler.reset()
    compiled = Trainer.begin(settings(compile=True), model_folder, model_folder)
    plain = Trainer.begin(settings(), model_folder, model_folder)
    graphs = []
    for samples in BATCHES:
        one, other = compiled.advance(samples, 0), plain.advance(samples, 0)
        assert isinstance(one, Trained)
        for name in ("loss", "grad_norm", "entropy", "kl_sampler", "ratio_max"):
            assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-3, abs=1e-5), name
        graphs.append(counters["stats"]["unique_graphs"])
    found = dict(compiled._policy.trainable)
    for name, value in plain._policy.trainable.items():
        assert torch.allclose(found[name], value, rtol=1e-3, atol=1e-4), name
    assert graphs[0] > 0
    assert graphs == [graphs[0]] * len(BATCHES)


def test_without_a_compiler_it_says_what_is_missing(model_folder: Path) -> None:
    torch.compiler.reset()
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(CannotCompile, match=r"LEYDEN_LEARNER_COMPILE.*C\+\+ compiler"),
    ):
        load_policy(settings(compile=True), model_folder, model_folder)
