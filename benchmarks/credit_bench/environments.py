"""The two agents that are trained, as conversations that a sampler can hold many of at a time.

Tools, tasks, rewards and seed models are the examples' own. Only their loops are here once more, because
those call a server and wait.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calculator import agent as calculator
from calculator import reward as calculator_reward
from calculator import tasks as calculator_tasks
from dispatch import agent as dispatch
from dispatch import reward as dispatch_reward
from dispatch import rules as dispatch_rules
from dispatch import tasks as dispatch_tasks

from credit_bench import EXAMPLES
from leyden_schemas import JsonObject, Limits, RewardSpec, Split, Task, Trajectory

SPLITS: dict[Split, calculator_tasks.Split] = {Split.TRAIN: "train", Split.EVAL: "heldout"}


@dataclass
class Episode:
    """One attempt at a task: what was said, and what to do with the model's next message."""

    messages: list[JsonObject]
    tools: list[Any]
    max_turns: int
    call_tool: Callable[[str, str], str]
    left: Callable[[], bool]
    output: Callable[["Episode"], str]
    reminder: Callable[[], str] | None = None
    """What a message without a tool call is answered with; without a reminder it is the last one."""
    said: str | None = None
    turns: int = 0
    failed: bool = False
    over: bool = False

    def hear(self, message: JsonObject) -> None:
        """Carry out the tool calls of a message, or answer one that has none."""
        self.turns += 1
        self.messages.append(message)
        calls = message.get("tool_calls") or []
        for call in calls:
            function = call["function"]
            result = self.call_tool(function["name"], function["arguments"])
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
        if not calls and self.reminder:
            self.messages.append({"role": "user", "content": self.reminder()})
        elif not calls:
            self.said = message.get("content") or ""
        self.over = self.said is not None or self.left() or self.turns == self.max_turns

    def fail(self) -> None:
        """The server refused the conversation, because it grew too long."""
        self.failed = self.over = True


@dataclass(frozen=True)
class Environment:
    """Something to learn: its tasks, how one is attempted, its reward, and the model that begins."""

    name: str
    seed_model: Path
    generate: Callable[[int, Split, int], Iterable[Mapping[str, Any]]]
    begin: Callable[[JsonObject], Episode]
    reward: Callable[[Trajectory], float]
    rules: tuple[Callable[..., list[float]], ...] = ()
    """Intermediate rewards of the example's own, beside AIR's."""

    def tasks(self, count: int, *, split: Split, seed: int, samples: int) -> list[Task]:
        """Distinct tasks, in messages as any producer would send them."""
        return [
            Task(
                task_id=f"{split}-{seed}-{number}",
                input=dict(task),
                policy=self.name,
                reference=task["answer"],
                samples=samples,
                reward=RewardSpec(name=self.name),
                split=split,
                limits=Limits(max_attempts=1),
            )
            for number, task in enumerate(self.generate(count, split, seed))
        ]


def _calculate(task: JsonObject) -> Episode:
    return Episode(
        messages=_opening(calculator.SYSTEM, task["question"]),
        tools=[calculator.CALCULATOR],
        max_turns=calculator.MAX_TURNS,
        call_tool=calculator.call_tool,
        left=lambda: False,
        output=lambda episode: episode.said or "",
    )


def _dispatch(task: JsonObject) -> Episode:
    house = dispatch.House(task["question"], task["desks"])
    return Episode(
        messages=_opening(dispatch.SYSTEM, task["question"]),
        tools=[dispatch.SEND],
        max_turns=dispatch.MAX_TURNS,
        call_tool=house.call_tool,
        left=lambda: house.left,
        output=lambda _episode: house.where,
        reminder=lambda: house.reminder,
    )


def _opening(system: str, question: str) -> list[JsonObject]:
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


ENVIRONMENTS = {
    "calculator": Environment(
        name="calculator",
        seed_model=EXAMPLES / "calculator" / "seed",
        generate=lambda count, split, seed: calculator_tasks.generate(count, split=SPLITS[split], seed=seed),
        begin=_calculate,
        reward=calculator_reward.reward,
    ),
    "dispatch": Environment(
        name="dispatch",
        seed_model=EXAMPLES / "dispatch" / "seed",
        generate=lambda count, split, seed: dispatch_tasks.generate(count, split=SPLITS[split], seed=seed),
        begin=_dispatch,
        reward=dispatch_reward.reward,
        rules=(dispatch_rules.moved_on,),
    ),
}
