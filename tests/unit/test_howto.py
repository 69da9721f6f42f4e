"""What the how-to pages tell to copy: the tasks are tasks, the reward scores, the programs are Python."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden_schemas import Task

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/howto-agent.md", "docs/howto-producer.md", "docs/runner.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """The code of a page in one language."""
    return [text for name, text in BLOCK.findall((ROOT / page).read_text()) if name == language]


def literals(page: str) -> list[Any]:
    """Whatever a page writes out as a value: JSON by itself, and the constants of its programs."""
    found = [json.loads(text) for text in blocks(page, "json")]
    for program in blocks(page, "python"):
        for node in ast.walk(ast.parse(program)):
            match node:
                case ast.Constant(value=bytes() as text):
                    found.append(json.loads(text))
                case ast.Assign(targets=[ast.Name(id="TASK")], value=value):
                    found.append(ast.literal_eval(value))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_tasks_are_tasks(page: str) -> None:
    tasks = [value for value in literals(page) if "input" in value]
    assert tasks
    for task in tasks:
        Task.model_validate_json(json.dumps(task))


def test_the_reward_scores() -> None:
    (code,) = [text for text in blocks("docs/howto-agent.md", "python") if "@leyden.reward" in text]
    names: dict[str, Any] = {}
    exec(compile(code, "my/reward.py", "exec"), names)
    assert names["reward"](leyden.example_trajectory("4", reference="4")) == 1.0
    assert names["reward"](leyden.example_trajectory("5", reference="4")) == 0.0
