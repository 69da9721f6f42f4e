"""``python -m learner_bench.prepare``: the model that all subjects train, and what it gives to tokens.

The model is a Qwen3 with random weights; its tokenizer, which TRL wants to see, is the calculator's.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from learner_bench.environments import ROOT
from learner_bench.job import Job
from learner_bench.ours import samples
from learner_bench.workload import VOCABULARY
from leyden_learner.checkpoints import described_by
from leyden_learner.collate import collate, split, weigh
from leyden_learner.model import load_model, token_logprobs
from leyden_learner.objective.aggregation import rollout_mean

SEED = ROOT / "examples" / "calculator" / "seed"


def write_model(folder: Path, size: tuple[int, int, int]) -> None:
    """A model of that width, with so many layers and heads."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    width, layers, heads = size
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        dtype="float32",
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    for file in described_by(SEED):
        if file.name not in ("config.json", "generation_config.json"):
            shutil.copyfile(file, folder / file.name)


@torch.no_grad()
def logprobs(job: Job, model: Any) -> list[list[list[float]]]:
    """Of every turn's tokens under the model, so that the first step is on policy for every subject."""
    found: list[list[list[float]]] = []
    for index, sample in enumerate(samples(job)):
        parts = split(weigh([sample], rollout_mean), job.micro_batch_tokens)
        (scores_n,) = (token_logprobs(model, collate(part)).logprobs_n for part in parts)
        lengths = [stop - start for start, stop in job.rollouts[index].turns]
        found.append([part.tolist() for part in torch.split(scores_n, lengths)])
    return found


def main() -> None:
    """Write the model of a job, if it is not there, and the job with what the model gives to its tokens."""
    path, size = Path(sys.argv[1]), sys.argv[2]
    job = Job.read(path)
    if not Path(job.model).exists():
        width, layers, heads = map(int, size.split(","))
        write_model(Path(job.model), (width, layers, heads))
    model = load_model(Path(job.model), torch.device("cpu"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    replace(job, logprobs=logprobs(job, model), parameters=parameters).write(path)


if __name__ == "__main__":
    main()
