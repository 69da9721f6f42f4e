"""The tasks: expressions of two operations in which the order of working decides the answer.

In five of every eight, working from left to right gives a wrong number. Whether a question is for
training or held out depends on the hash of its text alone, so no seed can move one across.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from typing import Literal, TypedDict

Split = Literal["train", "heldout"]
Operation = tuple[int, str, int]

HELD_OUT_IN_256 = 51
SMALLEST, LARGEST = 2, 20
MOST: dict[Split, int] = {"train": 20_000, "heldout": 5_000}

# Each form appears as often as it is listed; `left` says which operation comes first.
RIGHT_FIRST = ("a + b * c", "a - b * c", "a * (b + c)", "a + b * c", "a - b * c")
LEFT_FIRST = ("a * b + c", "a * b - c", "(a + b) * c")
FORMS = RIGHT_FIRST + LEFT_FIRST


class Task(TypedDict):
    """A question for the agent and the answer that the reward expects."""

    question: str
    answer: str


class Problem(TypedDict):
    """The parts of a question: two operations over three numbers, and which operation goes first."""

    numbers: tuple[int, int, int]
    operators: tuple[str, str]
    right_first: bool
    question: str


def problems(split: Split, seed: int) -> Iterator[Problem]:
    """Endless distinct-by-chance problems of one split, the same for the same seed."""
    rng = random.Random(f"{split}-{seed}")
    while True:
        problem = make_problem(rng)
        if split_of(problem["question"]) == split:
            yield problem


def make_problem(rng: random.Random) -> Problem:
    """Draws a form and its three numbers."""
    form = rng.choice(FORMS)
    a, b, c = (rng.randint(SMALLEST, LARGEST) for _ in range(3))
    first, second = (symbol for symbol in form if symbol in "+-*")
    return {
        "numbers": (a, b, c),
        "operators": (first, second),
        "right_first": form in RIGHT_FIRST,
        "question": form.replace("a", str(a)).replace("b", str(b)).replace("c", str(c)),
    }


def split_of(question: str) -> Split:
    """The only split a question can be in."""
    return "heldout" if hashlib.sha256(question.encode()).digest()[0] < HELD_OUT_IN_256 else "train"


def apply(a: int, op: str, b: int) -> int:
    """The three operations that tasks use."""
    return a + b if op == "+" else a - b if op == "-" else a * b


def work_out(problem: Problem, *, right_first: bool) -> tuple[Operation, Operation, int]:
    """The two operations, in the order asked for, and the number they lead to."""
    (a, b, c), (first, second) = problem["numbers"], problem["operators"]
    if right_first:
        inner = (b, second, c)
        outer = (a, first, apply(*inner))
    else:
        inner = (a, first, b)
        outer = (apply(*inner), second, c)
    return inner, outer, apply(*outer)


def generate(count: int, *, split: Split, seed: int = 0) -> Iterator[Task]:
    """Yields `count` tasks with no question twice; they never run out below `MOST`."""
    if count > MOST[split]:
        raise ValueError(f"there are at most {MOST[split]} tasks to ask for in {split!r}, not {count}")
    seen: set[str] = set()
    for problem in problems(split, seed):
        if len(seen) == count:
            return
        if problem["question"] not in seen:
            seen.add(problem["question"])
            *_, answer = work_out(problem, right_first=problem["right_first"])
            yield {"question": problem["question"], "answer": str(answer)}


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
