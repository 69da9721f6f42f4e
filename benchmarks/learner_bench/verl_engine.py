"""A step of verl's FSDP2 engine with its own ``ppo_loss``: the batch to its tensors, then ``train_batch``.

Without Ray, a reference model, or the pass that verl's trainers make before a step for the log-probabilities
it begins with: those of the sampler are given.
"""

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from learner_bench.job import BETAS, CLIP_HIGH, CLIP_LOW, GRAD_CLIP, Job, Meter, run
from learner_bench.workload import mask
from leyden_learner.settings import LearnerSettings
from leyden_learner.verl_backend.engine import build_engine


def measure(job: Job, meter: Meter) -> None:
    """The engine as our backend makes it; the loss, the batching and the step are verl's."""
    chosen = LearnerSettings(
        policy="bench",
        backend="verl",
        lr=job.lr,
        betas=BETAS,
        grad_clip=GRAD_CLIP,
        packing=job.packed,
        device=job.device,
        precision=job.precision,
    )
    meter.begin()
    with contextlib.redirect_stdout(sys.stderr):
        engine = build_engine(chosen, Path(job.model), lora=False)
    from verl.workers.config import ActorConfig
    from verl.workers.utils.losses import ppo_loss

    actor = ActorConfig(
        strategy="fsdp2",
        rollout_n=4,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=CLIP_LOW,
        clip_ratio_high=CLIP_HIGH,
        loss_agg_mode="seq-mean-token-mean",
    )
    for _ in range(1 + job.runs):
        with meter.step(), engine.train_mode():
            found = engine.train_batch(tensors(job), partial(ppo_loss, actor))
        meter.first(sum(found["loss"]), float(found["metrics"]["grad_norm"]))
        meter.stepped()


def tensors(job: Job) -> Any:
    """As verl's agent loops hand a batch over: nested rows, responses from the first sampled token on."""
    from verl.utils import tensordict_utils as tu
    from verl.utils.dataset.dataset_utils import DatasetPadMode

    def nested(rows: list[Any], dtype: torch.dtype) -> torch.Tensor:
        made = [torch.tensor(row, dtype=dtype, device=job.device) for row in rows]
        return torch.nested.as_nested_tensor(made, layout=torch.jagged)

    ids = [rollout.token_ids for rollout in job.rollouts]
    starts = [rollout.turns[0][0] for rollout in job.rollouts]
    masks = [mask(r.turns, start, len(r.token_ids)) for r, start in zip(job.rollouts, starts, strict=True)]
    prompts = [row[:start] for row, start in zip(ids, starts, strict=True)]
    responses = [row[start:] for row, start in zip(ids, starts, strict=True)]
    whole = [[0] * start + sampled for start, sampled in zip(starts, masks, strict=True)]
    return tu.get_tensordict(
        {
            "input_ids": nested(ids, torch.long),
            "position_ids": nested([list(range(len(row))) for row in ids], torch.long),
            "loss_mask": nested(whole, torch.long),
            "prompts": nested(prompts, torch.long),
            "responses": nested(responses, torch.long),
            "response_mask": nested(masks, torch.long),
            "old_log_probs": nested([spread(job, index) for index in range(len(ids))], torch.float32),
            "advantages": nested(
                [[r.advantage] * len(sampled) for r, sampled in zip(job.rollouts, masks, strict=True)],
                torch.float32,
            ),
        },
        {
            "temperature": 1.0,
            "global_batch_size": len(ids),
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": max(job.micro_batch_tokens, *map(len, ids)),
            "use_remove_padding": job.packed,
            "use_fused_kernels": False,
            "calculate_entropy": False,
            "pad_mode": DatasetPadMode.NO_PADDING,
        },
    )


def spread(job: Job, index: int) -> list[float]:
    """Log-probabilities over the response, 0 where nothing was sampled."""
    rollout = job.rollouts[index]
    first = rollout.turns[0][0]
    found = [0.0] * (len(rollout.token_ids) - first)
    for (start, stop), logprobs in zip(rollout.turns, job.logprobs[index], strict=True):
        found[start - first : stop - first] = logprobs
    return found


if __name__ == "__main__":
    run(measure)
