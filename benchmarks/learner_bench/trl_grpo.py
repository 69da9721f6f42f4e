"""A step of TRL's GRPOTrainer over given completions: by its own ``rollout_func``, nothing is generated.

Timed from the beginning of a step to its end: scoring by a given reward, advantages, padding, passes,
clipping, AdamW. Without a checkpoint, a log or a reference model.
"""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from learner_bench.job import BETAS, CLIP_HIGH, CLIP_LOW, GRAD_CLIP, Job, Meter, run
from learner_bench.workload import GROUP, mask


class Steps(TrainerCallback):
    """Where a step begins and ends."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Before its first pass."""
        self._step = self._meter.step()
        self._step.__enter__()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer."""
        self._step.__exit__(None, None, None)

    def on_log(self, *_: Any, **told: Any) -> None:
        """It logs every step after its end."""
        logs: dict[str, float] = told["logs"]
        if "grad_norm" in logs:
            self._meter.first(logs["loss"], logs["grad_norm"])
            self._meter.stepped()


def measure(job: Job, meter: Meter) -> None:
    """Its own loop over as many steps as are asked for."""
    rows = len(job.rollouts)
    part = rows_of_a_pass(job)

    def given(prompts: list[str], _trainer: Any) -> dict[str, Any]:
        """The rollouts of each prompt's group, in order."""
        seen: dict[str, int] = {}
        chosen = []
        for prompt in prompts:
            place = seen.get(prompt, 0)
            seen[prompt] = place + 1
            chosen.append(int(prompt) * GROUP + place)
        rollouts = [job.rollouts[index] for index in chosen]
        starts = [rollout.turns[0][0] for rollout in rollouts]
        return {
            "prompt_ids": [r.token_ids[:start] for r, start in zip(rollouts, starts, strict=True)],
            "completion_ids": [r.token_ids[start:] for r, start in zip(rollouts, starts, strict=True)],
            "logprobs": None,
            "env_mask": [
                mask(r.turns, start, len(r.token_ids)) for r, start in zip(rollouts, starts, strict=True)
            ],
            "earned": [rollout.reward for rollout in rollouts],
        }

    def earned(earned: list[float], **_: Any) -> list[float]:
        return earned

    meter.begin()
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32, attn_implementation="sdpa")
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=earned,
        rollout_func=given,
        train_dataset=Dataset.from_list([{"prompt": str(group)} for group in range(rows // GROUP)]),
        callbacks=[Steps(meter)],
        args=GRPOConfig(
            output_dir=str(Path(job.scratch) / "trl"),
            num_generations=GROUP,
            per_device_train_batch_size=part,
            gradient_accumulation_steps=rows // part,
            max_steps=1 + job.runs,
            learning_rate=job.lr,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            max_grad_norm=GRAD_CLIP,
            epsilon=CLIP_LOW,
            epsilon_high=CLIP_HIGH,
            loss_type="grpo",
            beta=0.0,
            temperature=1.0,
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=job.precision == "bf16",
            use_cpu=job.device == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    trainer.train()


def rows_of_a_pass(job: Job) -> int:
    """The most rows, of the batch's longest, that our passes have room for; the batch must divide by it."""
    longest = max(len(rollout.token_ids) for rollout in job.rollouts)
    most = max(1, job.micro_batch_tokens // longest)
    return max(part for part in range(1, most + 1) if len(job.rollouts) % part == 0)


if __name__ == "__main__":
    run(measure)
