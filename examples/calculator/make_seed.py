"""Makes the seed model from nothing: a tokenizer, a chat template and a small Qwen3 taught on transcripts.

The transcripts teach every skill the task needs and the wrong habits: see `HABITS`. Run it with
`PYTHONPATH=examples python -m calculator.make_seed`.
"""

import argparse
import json
import logging
import math
import random
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import (  # type: ignore[import-untyped]
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from calculator.agent import CALCULATOR, SYSTEM
from calculator.tasks import Problem, apply, problems, work_out

log = logging.getLogger("make_seed")

HERE = Path(__file__).parent
Habit = Literal["right", "left_to_right", "stops_early", "no_tool"]
Message = dict[str, Any]

# The share of transcripts that behave each way. The right way is there to be found, not to be preferred.
HABITS: dict[Habit, float] = {"right": 0.25, "left_to_right": 0.50, "stops_early": 0.15, "no_tool": 0.10}
PRACTICE = 0.4
ALONE = 0.3

VOCABULARY = 512
# One token a digit and an operator; any other text may merge, but never across the end of a line, so
# that what a turn starts with cannot change how the header before it is cut.
PIECES = r"\d|[-+*/()]|[^\d\-+*/()\n]+\n?|\n"
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
IGNORED = -100
TOOLS: list[Any] = [CALCULATOR]


def transcript(problem: Problem, habit: Habit, rng: random.Random) -> list[Message]:
    """One conversation about a task, the way an agent of this habit holds it."""
    right_first = problem["right_first"] if habit == "right" else False
    inner, outer, answer = work_out(problem, right_first=right_first)
    match habit:
        case "right" | "left_to_right":
            operations, reply = [inner, outer], answer
        case "stops_early":
            operations, reply = [inner], apply(*inner)
        case "no_tool":
            operations, reply = [], answer + rng.choice([-10, -2, -1, 1, 2, 10])
    return conversation(problem["question"], operations, reply)


def practice(rng: random.Random) -> list[Message]:
    """Exercises without a habit: one operation, or two with brackets that leave no choice of order.

    They teach copying from anywhere in a question, calling and reading, on numbers of any length. None of
    them is a form that tasks have.
    """
    a, b, c = (rng.randint(-9 if rng.random() < 0.1 else 1, 10 ** rng.randint(1, 3)) for _ in range(3))
    first, second = rng.choice("+-"), rng.choice("+-*")
    inner = (b, second, c)
    if rng.random() < ALONE:
        return conversation(f"{b} {second} {c}", [inner], apply(*inner))
    outer = (a, first, apply(*inner))
    return conversation(f"{a} {first} ({b} {second} {c})", [inner, outer], apply(*outer))


def conversation(question: str, operations: list[tuple[int, str, int]], reply: int) -> list[Message]:
    """The messages of an agent that carries out these operations and then replies."""
    messages: list[Message] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    for a, op, b in operations:
        function = {"name": "calculator", "arguments": json.dumps({"a": a, "op": op, "b": b})}
        messages.append({"role": "assistant", "tool_calls": [{"type": "function", "function": function}]})
        messages.append({"role": "tool", "content": str(apply(a, op, b))})
    return [*messages, {"role": "assistant", "content": str(reply)}]


def transcripts(seed: int) -> Iterator[list[Message]]:
    """Endless conversations over training questions and practice."""
    rng = random.Random(seed)
    habits, shares = list(HABITS), list(HABITS.values())
    for problem in problems("train", seed):
        if rng.random() < PRACTICE:
            yield practice(rng)
        else:
            yield transcript(problem, rng.choices(habits, shares)[0], rng)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the calculator's conversations."""
    return train_tokenizer(PIECES, VOCABULARY, lambda tokenizer: rendered(tokenizer, seed=0))


def train_tokenizer(
    pieces: str, vocabulary: int, texts: Callable[[PreTrainedTokenizerFast], Iterator[str]]
) -> PreTrainedTokenizerFast:
    """A byte-level BPE over rendered transcripts; a tool call's fixed text becomes a handful of tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    tokenizer = wrap(bpe)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(text, normalized=False) for text in (PAD, START, END, CALL, END_CALL)],
        show_progress=False,
    )
    bpe.train_from_iterator(islice(texts(tokenizer), 2000), trainer)
    return wrap(with_visible_calls(bpe))


def with_visible_calls(bpe: Tokenizer) -> Tokenizer:
    """The trainer marks all it is given as special, and servers hide special tokens: calls would vanish."""
    contents = json.loads(bpe.to_str())
    for token in contents["added_tokens"]:
        token["special"] = token["content"] not in (CALL, END_CALL)
    return Tokenizer.from_str(json.dumps(contents))


def wrap(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers and inference servers load it."""
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = (HERE / "chat_template.jinja").read_text()
    return tokenizer


def render(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> str:
    """The text that the model reads, with the calculator in front."""
    return str(tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False))


def rendered(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Iterator[str]:
    """Endless conversations as text."""
    return (render(tokenizer, item) for item in transcripts(seed))


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[int]]:
    """Token ids and labels of a rendered conversation: only what an assistant says and its end are taught."""
    ids: list[int] = tokenizer.encode(text)
    header: list[int] = tokenizer.encode(f"{START}assistant\n")
    end = tokenizer.convert_tokens_to_ids(END)
    labels: list[int] = []
    speaking = False
    for index, token in enumerate(ids):
        speaking = speaking or ids[index - len(header) : index] == header
        labels.append(token if speaking else IGNORED)
        speaking = speaking and token != end
    return ids, labels


def batches(
    tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless right-padded `ids_bt` and `labels_bt` of endless rendered conversations."""
    pad = tokenizer.convert_tokens_to_ids(PAD)
    while True:
        rows = [encode(tokenizer, text) for text in islice(texts, size)]
        width = max(len(ids) for ids, _ in rows)
        yield (
            torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in rows]),
        )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 small enough to serve and train on a laptop, in shapes that vLLM's kernels accept."""
    config = Qwen3Config(
        vocab_size=math.ceil(len(tokenizer) / 16) * 16,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
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


def teach(model: Qwen3ForCausalLM, source: Iterator[tuple[Tensor, Tensor]], *, steps: int, lr: float) -> None:
    """Next-token training with warm-up and a cosine decay to nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    for step, (ids_bt, labels_bt) in enumerate(islice(source, steps)):
        rate = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        loss = model(input_ids=ids_bt, labels=labels_bt).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0 or step == steps - 1:
            log.info("step %d of %d, loss %.4f", step, steps, loss.item())


def write(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Replaces `out` by renaming a finished folder, so that a reader never sees half a model."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".seed-") as temporary:
        fresh = Path(temporary) / "fresh"
        model.generation_config = generation_config(model)
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        write_tokenizer_config(fresh)
        (fresh / "model.safetensors").chmod(0o644)
        if out.exists():
            out.rename(Path(temporary) / "stale")
        fresh.rename(out)


def generation_config(model: Qwen3ForCausalLM) -> GenerationConfig:
    """Plain sampling, so that what is served is the distribution that is trained; no reply runs away."""
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=96,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )


def write_tokenizer_config(folder: Path) -> None:
    """Names the tokenizer class that transformers 4 and 5 both know."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Makes the tokenizer, teaches the model and writes the folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "seed")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=32, help="transcripts in a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    log.info("%d tokens, %d parameters", len(tokenizer), model.num_parameters())
    source = batches(tokenizer, rendered(tokenizer, seed=options.seed + 1), options.rows)
    teach(model, source, steps=options.steps, lr=options.lr)
    write(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
