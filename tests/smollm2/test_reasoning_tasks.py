"""The reasoning example where reasoning-gym is installed: its tasks, their split and the reward."""

import re
import sys
from itertools import islice
from pathlib import Path

import pytest

import leyden

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from reasoning import agent, reward, tasks


def test_a_question_has_one_split_whatever_the_seed() -> None:
    train = {task["question"] for seed in range(3) for task in tasks.generate(3000, split="train", seed=seed)}
    held_out = {
        task["question"] for seed in range(3) for task in tasks.generate(600, split="heldout", seed=seed)
    }
    assert len(train) > 2000
    assert len(held_out) > 800
    assert not train & held_out


def test_no_held_out_question_comes_twice() -> None:
    for seed in range(5):
        questions = [task["question"] for task in tasks.generate(600, split="heldout", seed=seed)]
        assert len(set(questions)) == 600


def test_answers_are_right_and_not_in_the_prompt() -> None:
    for task in [*tasks.generate(2000, split="train"), *tasks.generate(300, split="heldout")]:
        expression = agent.expression(task["question"])
        assert re.fullmatch(r"\d( [+-] \d){1,2}", expression)
        terms = re.findall(r"([+-]?)\s?(\d)", expression)
        assert sum(int(sign + digit) for sign, digit in terms) == int(task["answer"])
        assert agent.prompt(task["question"]) == f"Question: {expression}\nAnswer:"


def test_seeds_repeat_themselves_and_do_not_overlap() -> None:
    first, second, again = (list(islice(tasks.draws(seed), 50)) for seed in (0, 1, 0))
    assert first == again
    assert [entry["question"] for entry in first[1:]] != [entry["question"] for entry in second[:-1]]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 600"):
        tasks.generate(601, split="heldout")


@pytest.mark.parametrize(
    ("answer", "points"), [("7", 1.0), ("7.0", 1.0), ("07", 1.0), ("17", 0.0), ("-7", 0.0), ("", 0.0)]
)
def test_only_the_right_number_alone_is_rewarded(answer: str, points: float) -> None:
    assert reward.score(answer, "7") == points
    assert reward.reward(leyden.example_trajectory(answer, reference="7")) == points
