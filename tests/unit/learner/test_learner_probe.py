"""A checkpoint says what its own weights answer, adapters included, and not what those before them did."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from leyden_inference.probing import computed_probe
from leyden_learner.checkpoints import CheckpointStore
from leyden_learner.outcome import Trained
from leyden_learner.settings import LearnerSettings
from leyden_learner.testing import make_sample
from leyden_learner.trainer import Trainer
from leyden_platform.probe import Probe, distance, read_probe, write_probe


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("packing", [True, False])
def test_the_probe_is_that_of_the_new_weights(
    model_folder: Path, tmp_path: Path, rank: int, packing: bool
) -> None:
    chosen: dict[str, Any] = {"policy": "tiny", "lr": 1e-2, "threads": 1, "device": "cpu"}
    settings = LearnerSettings(**chosen, lora_rank=rank, packing=packing)
    base = Path(shutil.copytree(model_folder, tmp_path / "base"))
    old = computed_probe(base)
    write_probe(base, Probe(old.token_ids, tuple(value - 5 for value in old.logprobs)))
    trainer = Trainer.begin(settings, base, base)
    assert isinstance(trainer.advance([make_sample(index) for index in range(8)], 0), Trained)
    store = CheckpointStore(tmp_path / "checkpoints", "tiny", "default")
    folder = store.write(1, base, trainer.save)
    written, computed = read_probe(folder), computed_probe(folder)
    assert written is not None
    assert written.token_ids == computed.token_ids
    assert distance(written.logprobs, computed.logprobs) < 1e-5
    assert distance(written.logprobs, old.logprobs) > 1e-3
