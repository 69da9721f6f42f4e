"""Rollouts as the gateway and the runner tell them: every step adds 1,000 tokens to the one before it.

A step's JSON is as long as its tokens are in English. Ids are of a vocabulary of 150,000, by Zipf's law and
the frequent ones first, as tokenizers number them. Log-probabilities are single precision, as inference
servers give them.
"""

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from uuid import UUID

import msgspec

from leyden_platform.transcript import Transcript
from leyden_schemas import (
    JsonObject,
    Outcome,
    RewardTerm,
    RolloutFinished,
    RolloutStarted,
    Step,
    Task,
    Trajectory,
    cause_id,
)

PROMPT, SAMPLED = 800, 200
STEP_TOKENS = PROMPT + SAMPLED
VOCABULARY = 150_000
_NOW = datetime.now(UTC)
_WORDS_PER_TOKEN = 0.75
Told = tuple[bytes, bytes]
"""Key and value of a record."""


class Pieces:
    """Texts, ids and log-probabilities, drawn once and cut anew for every step."""

    def __init__(self, seed: int = 1) -> None:
        draw = random.Random(seed)
        words = ["".join(draw.choices("etaoinshrdlucmfw", k=draw.randint(2, 9))) for _ in range(5_000)]
        often = list(accumulate(1 / (rank + 2.7) for rank in range(len(words))))
        self._words = draw.choices(words, cum_weights=often, k=200_000)
        ranks = list(accumulate(1 / (rank + 2.7) for rank in range(VOCABULARY)))
        self._ids = draw.choices(range(VOCABULARY), cum_weights=ranks, k=200_000)
        self._logprobs = array("f", [-draw.expovariate(2) for _ in range(50_000)]).tolist()
        self._draw = draw

    def text(self, tokens: int) -> str:
        """As many words as make so many tokens."""
        size = int(tokens * _WORDS_PER_TOKEN)
        at = self._draw.randrange(len(self._words) - size)
        return " ".join(self._words[at : at + size])

    def ids(self, count: int) -> list[int]:
        """Token ids."""
        at = self._draw.randrange(len(self._ids) - count)
        return self._ids[at : at + count]

    def logprobs(self, count: int) -> list[float]:
        """Log-probabilities."""
        at = self._draw.randrange(len(self._logprobs) - count)
        return self._logprobs[at : at + count]


@dataclass(frozen=True)
class Story:
    """One rollout of a group, and the records that tell it."""

    number: int
    steps: int
    samples: int
    pieces: Pieces

    @property
    def rollout_id(self) -> UUID:
        """Its id."""
        return cause_id("bench rollout", self.number)

    @property
    def group_id(self) -> UUID:
        """The id of its group."""
        return cause_id("bench group", self.number // self.samples)

    @property
    def task(self) -> Task:
        """What it is to do: whatever it answers is right for every second rollout."""
        return Task(
            task_id=f"task-{self.number // self.samples}",
            input={"question": "?"},
            policy="bench",
            reference="yes",
            samples=self.samples,
        )

    def begun(self) -> Iterator[Told]:
        """Its start and its completions."""
        started = RolloutStarted(**self._common("started"), group_id=self.group_id, index=0, task=self.task)
        yield self._told(started.to_json())
        for turn in range(self.steps):
            yield self._told(msgspec.json.encode(self._completion(turn)))

    def ended(self) -> Told:
        """Its end."""
        answer = "yes" if self.number % 2 else "no"
        return self._told(
            RolloutFinished(**self._common("finished"), outcome=Outcome.SUCCEEDED, output=answer).to_json()
        )

    def trajectory(self) -> Told:
        """What the reward service makes of it."""
        steps = [self._step(self._completion(turn)) for turn in range(self.steps)]
        made = Trajectory(
            trajectory_id=cause_id("bench trajectory", self.number),
            rollout_id=self.rollout_id,
            group_id=self.group_id,
            index=self.number % self.samples,
            task=self.task,
            outcome=Outcome.SUCCEEDED,
            output="yes",
            steps=Transcript(steps).steps(),
            final=[RewardTerm(name="reward", value=float(self.number % 2))],
            finished_at=_NOW,
        )
        return str(self.group_id).encode(), made.to_json()

    def completion_id(self, turn: int) -> UUID:
        """The id of the completion of a turn."""
        return cause_id("bench completion", self.number, turn)

    def _common(self, what: str) -> JsonObject:
        return {
            "event_id": cause_id("bench event", self.number, what),
            "rollout_id": self.rollout_id,
            "occurred_at": _NOW,
        }

    def _told(self, value: bytes) -> Told:
        return str(self.rollout_id).encode(), value

    def _completion(self, turn: int) -> JsonObject:
        """As the gateway writes it: the prompt leans on the turn before."""
        pieces = self.pieces
        said, asked = pieces.text(SAMPLED), [{"role": "user", "content": pieces.text(PROMPT)}]
        base, request = None, {"model": "bench", "messages": asked, "temperature": 1.0, "tools": []}
        if turn:
            base = {
                "completion_id": self.completion_id(turn - 1),
                "tokens": turn * STEP_TOKENS,
                "items": 2 * turn - 1,
                "fields": ["model", "temperature", "tools"],
            }
            request = {"messages": [{"role": "assistant", "content": said}, *asked]}
        return {
            "type": "completion_recorded",
            **self._common(f"completion {turn}"),
            "completion_id": self.completion_id(turn),
            "policy": "bench",
            "version": 1,
            "base": base,
            "request": request,
            "response": _response(said),
            "prompt_token_ids": pieces.ids(PROMPT),
            "token_ids": pieces.ids(SAMPLED),
            "logprobs": pieces.logprobs(SAMPLED),
            "finish_reason": "stop",
            "timings": {"queue_s": 0.001, "first_token_s": 0.1, "total_s": 2.0},
        }

    @staticmethod
    def _step(completion: JsonObject) -> Step:
        return Step.model_validate(completion)


def _response(said: str) -> JsonObject:
    return {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": "bench@1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": PROMPT, "completion_tokens": SAMPLED, "total_tokens": STEP_TOKENS},
    }


def stories(first: int, count: int, *, steps: int, samples: int, pieces: Pieces) -> Sequence[Story]:
    """Rollouts numbered from ``first``."""
    return [Story(number, steps, samples, pieces) for number in range(first, first + count)]
