"""Rollouts for tests: told as events, or as the trajectory the reward service makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from leyden_schemas import (
    CompletionRecorded,
    JsonObject,
    Outcome,
    RewardTerm,
    RolloutFinished,
    RolloutStarted,
    SignalRecorded,
    Step,
    Task,
    Trajectory,
    cause_id,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
TOOL: JsonObject = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


def make_task(**changes: Any) -> Task:
    """A task whose right answer is 4."""
    defaults: dict[str, Any] = {
        "task_id": "2+2",
        "input": {"question": "2 + 2"},
        "policy": "calculator",
        "reference": "4",
    }
    return Task(**(defaults | changes))


def call(name: str = "add", arguments: str = '{"a": 2, "b": 2}', call_id: str = "c1") -> JsonObject:
    """A tool call as it stands in an assistant message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(content: str | None = "4", calls: Sequence[JsonObject] = ()) -> JsonObject:
    """A chat completion of one choice."""
    message: JsonObject = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = list(calls)
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def tool_message(content: str, call_id: str = "c1") -> JsonObject:
    """A tool's result as the agent sends it back."""
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def make_step(
    prompt: Sequence[int] = (1, 2), sampled: Sequence[int] = (3,), *, air: float = 0.0, **changes: Any
) -> Step:
    """A step of these tokens, worth ``air``."""
    defaults: dict[str, Any] = {
        "completion_id": uuid4(),
        "policy": "calculator",
        "version": 0,
        "prompt_token_ids": list(prompt),
        "token_ids": list(sampled),
        "logprobs": [-0.5] * len(sampled),
        "finish_reason": "stop",
        "terms": [RewardTerm(name="rule", value=air)] if air else [],
    }
    return Step(**(defaults | changes))


def make_trajectory(reward: float = 1.0, steps: Sequence[Step] | None = None, **changes: Any) -> Trajectory:
    """A scored trajectory of one step."""
    rollout_id = changes.get("rollout_id", uuid4())
    defaults: dict[str, Any] = {
        "rollout_id": rollout_id,
        "trajectory_id": cause_id("trajectory", rollout_id, 1),
        "group_id": UUID(int=7),
        "task": make_task(),
        "outcome": Outcome.SUCCEEDED,
        "output": "4",
        "steps": [make_step()] if steps is None else list(steps),
        "final": [RewardTerm(name="reward", value=reward)],
        "finished_at": EPOCH,
    }
    return Trajectory(**(defaults | changes))


@dataclass
class Rollout:
    """Tells the events of one rollout, each with an id of its own and a second after the last."""

    task: Task = field(default_factory=make_task)
    group_id: UUID = field(default_factory=uuid4)
    index: int = 0
    rollout_id: UUID = field(default_factory=uuid4)
    told: int = 0

    def _common(self, attempt: int) -> JsonObject:
        self.told += 1
        return {
            "event_id": cause_id("event", self.rollout_id, self.told),
            "rollout_id": self.rollout_id,
            "attempt": attempt,
            "occurred_at": EPOCH + timedelta(seconds=self.told),
        }

    def started(self, attempt: int = 1) -> RolloutStarted:
        """An attempt begins."""
        return RolloutStarted(
            **self._common(attempt), group_id=self.group_id, index=self.index, task=self.task
        )

    def completion(self, attempt: int = 1, **changes: Any) -> CompletionRecorded:
        """The model was called and answered ``4``."""
        common = self._common(attempt)
        defaults: dict[str, Any] = {
            "completion_id": cause_id("completion", common["event_id"]),
            "policy": "calculator",
            "version": 3,
            "request": {"messages": [{"role": "user", "content": "2 + 2"}], "tools": [TOOL]},
            "response": answer(),
            "prompt_token_ids": [1, 2],
            "token_ids": [3, 4],
            "logprobs": [-0.1, -0.2],
            "finish_reason": "stop",
        }
        return CompletionRecorded(**common, **(defaults | changes))

    def signal(self, value: float | None = 1.0, attempt: int = 1, **changes: Any) -> SignalRecorded:
        """Somebody said what they think of it."""
        return SignalRecorded(**self._common(attempt), **({"name": "thumb", "value": value} | changes))

    def finished(
        self, output: Any = "4", attempt: int = 1, outcome: Outcome = Outcome.SUCCEEDED, **changes: Any
    ) -> RolloutFinished:
        """The attempt is over."""
        return RolloutFinished(**self._common(attempt), outcome=outcome, output=output, **changes)
