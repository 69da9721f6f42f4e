"""The tasks: parcels that pass eight desks, each of which has house rules that nobody wrote down.

A desk looks at one fact of a parcel and has one lane for parcels as they usually are, and another for the
unusual ones. The desks come in an order of the parcel's own. Whether a parcel is for training or held out
depends on the hash of its text alone, so no seed can move one across.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypedDict

Split = Literal["train", "heldout"]

HELD_OUT_IN_256 = 51
MOST: dict[Split, int] = {"train": 20_000, "heldout": 5_000}
LANES = (1, 2, 3, 4)
FACTS = {"home": "abroad", "small": "large", "paper": "glass"}
"""What a parcel usually is, and what it is otherwise."""
DELIVERED = "delivered"


class Desk(NamedTuple):
    """The lane for parcels that are ``usually``, the lane for the others, and what a wrong lane does.

    A strict desk refuses a wrong lane. Another takes the parcel, and leaves a note on it.
    """

    usually: str
    lane: int
    other_lane: int
    strict: bool = True


DESKS = {
    "counter": Desk("small", 1, 3),
    "customs": Desk("home", 2, 4),
    "insurance": Desk("paper", 3, 1),
    "labels": Desk("home", 4, 2),
    "loading": Desk("large", 1, 2, strict=False),
    "scale": Desk("small", 2, 1),
    "storage": Desk("glass", 3, 4, strict=False),
    "wrapping": Desk("paper", 4, 3),
}


def shown(desk: str, facts: set[str]) -> str:
    """What is seen of a parcel at a desk: the one fact that counts there, `scale large`."""
    usually = DESKS[desk].usually
    pair = next(pair for pair in FACTS.items() if usually in pair)
    return f"{desk} {next(fact for fact in pair if fact in facts)}"


class Task(TypedDict):
    """A parcel for the agent, the desks it passes in this order, and where it should end."""

    question: str
    desks: list[str]
    answer: str


def right_lane(desk: str, facts: set[str]) -> int:
    """The only lane that a desk takes such a parcel on."""
    rule = DESKS[desk]
    return rule.lane if rule.usually in facts else rule.other_lane


def facts_of(question: str) -> set[str]:
    """What the text says about the parcel: one of each pair of ``FACTS``."""
    return set(question.split()) & {*FACTS, *FACTS.values()}


def parcels(split: Split, seed: int) -> Iterator[Task]:
    """Endless distinct-by-chance parcels of one split, the same for the same seed."""
    rng = random.Random(f"{split}-{seed}")
    while True:
        task = make_parcel(rng)
        if split_of(task["question"]) == split:
            yield task


def make_parcel(rng: random.Random) -> Task:
    """Draws facts, a number, and the order of the desks."""
    facts = [rng.choice(pair) for pair in FACTS.items()]
    desks = rng.sample(sorted(DESKS), len(DESKS))
    question = "\n".join([f"Parcel {rng.randrange(10_000, 100_000)}", *facts, shown(desks[0], {*facts})])
    return {"question": question, "desks": desks, "answer": DELIVERED}


def split_of(question: str) -> Split:
    """The only split a parcel can be in."""
    return "heldout" if hashlib.sha256(question.encode()).digest()[0] < HELD_OUT_IN_256 else "train"


def generate(count: int, *, split: Split, seed: int = 0) -> Iterator[Task]:
    """Yields `count` tasks with no question twice; they never run out below `MOST`."""
    if count > MOST[split]:
        raise ValueError(f"there are at most {MOST[split]} tasks to ask for in {split!r}, not {count}")
    seen: set[str] = set()
    for task in parcels(split, seed):
        if len(seen) == count:
            return
        if task["question"] not in seen:
            seen.add(task["question"])
            yield task


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
