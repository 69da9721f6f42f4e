"""The tasks: reasoning-gym's `chain_sum`, two or three numbers of one digit to be added and subtracted.

Whether a question is for training or held out depends on the hash of its text alone: there are so few of them
that another seed asks the same ones.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, TypedDict

from reasoning_gym import create_dataset

Split = Literal["train", "heldout"]

CONFIG = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
HELD_OUT_IN_256 = 51
MOST: dict[Split, int] = {"train": 100_000, "heldout": 600}
"""Tasks that there are to ask for. Of 4,200 questions 883 are held out; those for training come again."""

DRAWS = 1_000_000
"""Question i of seed s is drawn from random state s + i, so seeds are kept this far apart."""


class Task(TypedDict):
    """A question for the agent and the answer that the reward expects."""

    question: str
    answer: str


def generate(count: int, *, split: Split, seed: int = 0) -> Iterator[Task]:
    """Yields `count` tasks; they never run out below `MOST`.

    No held-out question comes twice. Training questions do, as the data set has them: half of two numbers.
    """
    if count > MOST[split]:
        raise ValueError(f"there are at most {MOST[split]} tasks to ask for in {split!r}, not {count}")
    return islice(_of(split, seed), count)


def _of(split: Split, seed: int) -> Iterator[Task]:
    seen: set[str] = set()
    for entry in draws(seed):
        question = entry["question"]
        if question not in seen and split_of(question) == split:
            if split == "heldout":
                seen.add(question)
            yield {"question": question, "answer": entry["answer"]}


def draws(seed: int) -> Iterator[dict[str, Any]]:
    """reasoning-gym's questions in the order of the seed, with repetitions."""
    dataset = create_dataset("chain_sum", size=DRAWS, seed=seed * DRAWS, **CONFIG)
    return (dataset[index] for index in range(DRAWS))


def split_of(question: str) -> Split:
    """The only split a question can be in."""
    return "heldout" if hashlib.sha256(question.encode()).digest()[0] < HELD_OUT_IN_256 else "train"


def main() -> None:
    """Writes tasks to standard output, one JSON object a line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--split", choices=["train", "heldout"], default="train")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for task in generate(options.count, split=options.split, seed=options.seed):
        print(json.dumps(task))


if __name__ == "__main__":
    main()
