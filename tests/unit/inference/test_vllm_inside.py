"""What Leyden mends inside vLLM's workers, without vLLM."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import leyden_inference.vllm

INSIDE = Path(leyden_inference.vllm.__file__).parent / "inside" / "leyden_vllm.py"


@pytest.mark.parametrize(
    ("rows", "sampled", "added"),
    [
        pytest.param(19, 19, True, id="tokens being sampled"),
        pytest.param(47, 19, False, id="a prompt beside other requests"),
        pytest.param(47, 1, True, id="a prompt alone"),
    ],
)
def test_the_heads_adapters_are_added_where_their_mapping_fits(rows: int, sampled: int, added: bool) -> None:
    spec = importlib.util.spec_from_file_location("leyden_vllm", INSIDE)
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Wrapper:
        sampler_indices = torch.zeros(sampled)

        def add_lora_logits(self, y: torch.Tensor, x: torch.Tensor, scale: float) -> torch.Tensor:
            return y + scale * x.sum(-1, keepdim=True)

    module._leave_prompts_alone(Wrapper)
    result = Wrapper().add_lora_logits(torch.zeros(rows, 5), torch.ones(rows, 8), 0.5)
    assert torch.equal(result, torch.full((rows, 5), 4.0 if added else 0.0))
