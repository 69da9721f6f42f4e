"""A small model that every test of tensors may read."""

from pathlib import Path

import pytest
import torch

from leyden_learner.testing import write_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete artifact with random weights. Not to be written to."""
    torch.set_num_threads(1)
    return write_model(tmp_path_factory.mktemp("model") / "first")
