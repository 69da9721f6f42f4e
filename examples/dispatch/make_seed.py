"""Makes the seed model from nothing: a tokenizer and a small Qwen3 taught on transcripts.

It is taught to call the tool and to know the lanes, with bad habits: see `USUAL` and `UNUSUAL`. Run it with
`PYTHONPATH=examples python -m dispatch.make_seed`. What is not about parcels comes from the calculator's.
"""

import argparse
import json
import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from calculator.make_seed import batches, teach, train_tokenizer, write
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from dispatch.agent import MAX_TURNS, SEND, SYSTEM, House
from dispatch.tasks import DESKS, LANES, Task, facts_of, parcels, right_lane

HERE = Path(__file__).parent
Message = dict[str, Any]

# How often the teachers take the right lane where the parcel is as usual at this desk; else a random other.
USUAL = 0.70
# Where it is not: the right lane, and the lane of usual parcels; else a random other.
UNUSUAL, AS_IF_USUAL = 0.25, 0.60

VOCABULARY = 512
# One token a digit; any other text may merge, but never across the end of a line, so a fact is one token.
PIECES = r"\d|[^\d\n]+\n?|\n"
TOOLS: list[Any] = [SEND]


def transcript(task: Task, rng: random.Random) -> list[Message]:
    """One conversation about a parcel, the way a teacher holds it."""
    house = House(task["question"], task["desks"])
    facts = facts_of(task["question"])
    messages: list[Message] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": task["question"]},
    ]
    for _ in range(MAX_TURNS):
        arguments = json.dumps({"lane": taught_lane(house.where.split()[0], facts, rng)})
        function = {"name": "send", "arguments": arguments}
        messages.append({"role": "assistant", "tool_calls": [{"type": "function", "function": function}]})
        messages.append({"role": "tool", "content": house.call_tool("send", arguments)})
        if house.left:
            break
    return messages


def taught_lane(desk: str, facts: set[str], rng: random.Random) -> int:
    """What a teacher does at a desk, also after a refusal there."""
    right, usual = right_lane(desk, facts), DESKS[desk].lane
    drawn = rng.random()
    if drawn < (USUAL if right == usual else UNUSUAL):
        return right
    if right != usual and drawn < UNUSUAL + AS_IF_USUAL:
        return usual
    return rng.choice([lane for lane in LANES if lane not in (right, usual)])


def transcripts(seed: int) -> Iterator[list[Message]]:
    """Endless conversations over training parcels."""
    rng = random.Random(seed)
    return (transcript(task, rng) for task in parcels("train", seed))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of conversations about parcels."""
    return train_tokenizer(PIECES, VOCABULARY, lambda tokenizer: rendered(tokenizer, seed=0))


def render(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> str:
    """The text that the model reads, with the tool in front."""
    return str(tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False))


def rendered(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Iterator[str]:
    """Endless conversations as text."""
    return (render(tokenizer, item) for item in transcripts(seed))


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of a size that one core samples thousands of rollouts a minute from."""
    config = Qwen3Config(
        vocab_size=math.ceil(len(tokenizer) / 16) * 16,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)  # type: ignore[no-untyped-call]


def main() -> None:
    """Makes the tokenizer, teaches the model and writes the folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "seed")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    logging.info("%d tokens, %d parameters", len(tokenizer), model.num_parameters())
    source = batches(tokenizer, rendered(tokenizer, seed=options.seed + 1), options.rows)
    teach(model, source, steps=options.steps, lr=options.lr)
    write(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
