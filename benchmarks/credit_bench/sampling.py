"""Many conversations held with one policy version at a time, on the inference service's own engine.

The prompt is rendered, sampled and parsed by the code that serves HTTP; only HTTP is left out. Every answer
becomes the event that the gateway would record.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from credit_bench.environments import Episode
from leyden_inference.api import chat_prompt, room_behind
from leyden_inference.batch import Batch, BatchLimits
from leyden_inference.batch import Sequence as Sampled
from leyden_inference.chat import normalise
from leyden_inference.engine import Runner, Update
from leyden_inference.errors import RequestRefused
from leyden_inference.loading import Loader
from leyden_inference.responses import ChatWriter, Choice, Whole
from leyden_inference.sampling import Draws, SamplingParams
from leyden_inference.serving import Served
from leyden_schemas import (
    CompletionRecorded,
    EventMessage,
    JsonObject,
    Outcome,
    RolloutAssigned,
    RolloutFinished,
    RolloutStarted,
    cause_id,
    policy_at,
)

LIMITS = BatchLimits(rows=128, prefill_tokens=8192, prefix_tokens=65_536)
MAX_TOKENS = 96
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""When everything happens: time plays no part here."""


class Policy:
    """One version, ready to sample from."""

    def __init__(self, loader: Loader, folder: Path, name: str, version: int) -> None:
        model = loader.load_folder(folder)
        served = policy_at(name, version)
        self.name, self.version = name, version
        self._batch = Batch(model.decoder, model.eos, LIMITS, served)
        self._served = Served(served, model, Runner(self._batch))

    def roll_out(
        self, assigned: Sequence[RolloutAssigned], episodes: Sequence[Episode], draws: random.Random
    ) -> list[list[EventMessage]]:
        """Hold the conversations to their ends; the events of each, in order."""
        events: list[list[EventMessage]] = [[_started(one)] for one in assigned]
        waiting: dict[Sampled, tuple[int, JsonObject]] = {}
        for index, episode in enumerate(episodes):
            waiting |= self._ask(index, episode, draws)
        with torch.inference_mode():
            while waiting:
                for answer in self._batch.step():
                    if answer.finished:
                        index, request = waiting.pop(answer)
                        episode, so_far = episodes[index], events[index]
                        response = self._response(answer)
                        so_far.append(self._recorded(assigned[index], len(so_far), request, response, answer))
                        episode.hear(response["choices"][0]["message"])
                        waiting |= self._ask(index, episode, draws)
        for one, episode, so_far in zip(assigned, episodes, events, strict=True):
            so_far.append(_finished(one, episode))
        return events

    def _ask(
        self, index: int, episode: Episode, draws: random.Random
    ) -> dict[Sampled, tuple[int, JsonObject]]:
        """Queue the next call of an episode, if it is not over."""
        if episode.over:
            return {}
        messages = list(episode.messages)
        request = {"model": self._served.name, "messages": messages, "tools": episode.tools}
        try:
            prompt = chat_prompt(self._served, normalise(messages), episode.tools, {})
            room = room_behind(self._served, prompt, None)
        except RequestRefused:
            episode.fail()
            return {}
        params = SamplingParams(max_tokens=min(MAX_TOKENS, room))
        sequence = Sampled(prompt, params, draws=Draws(draws.randrange(2**32)))
        self._batch.waiting.append(sequence)
        return {sequence: (index, request)}

    def _response(self, answer: Sampled) -> JsonObject:
        if answer.finished == "error":
            raise FloatingPointError(f"{self._served.name} gives no valid probabilities")
        tokenizer = self._served.model.text.tokenizer
        whole = Whole()
        update = Update(0, answer.tokens, answer.logprobs, [], answer.finished)
        whole.add(Choice(tokenizer, (), tools=True).take(update))
        return ChatWriter(self._served.name, tokenizer, answer.prompt, False, False).whole([whole])

    def _recorded(
        self,
        assigned: RolloutAssigned,
        place: int,
        request: JsonObject,
        response: JsonObject,
        answer: Sampled,
    ) -> CompletionRecorded:
        return CompletionRecorded(
            event_id=cause_id("completion_recorded", assigned.rollout_id, place),
            rollout_id=assigned.rollout_id,
            occurred_at=NOON,
            completion_id=cause_id("completion", assigned.rollout_id, place),
            policy=self.name,
            version=self.version,
            request=request,
            response=response,
            prompt_token_ids=answer.prompt,
            token_ids=answer.tokens,
            logprobs=answer.logprobs,
            finish_reason=response["choices"][0]["finish_reason"],
        )


def _started(assigned: RolloutAssigned) -> RolloutStarted:
    return RolloutStarted(
        event_id=cause_id("rollout_started", assigned.rollout_id),
        rollout_id=assigned.rollout_id,
        occurred_at=NOON,
        group_id=assigned.group_id,
        index=assigned.index,
        task=assigned.task,
    )


def _finished(assigned: RolloutAssigned, episode: Episode) -> RolloutFinished:
    return RolloutFinished(
        event_id=cause_id("rollout_finished", assigned.rollout_id),
        rollout_id=assigned.rollout_id,
        occurred_at=NOON,
        outcome=Outcome.AGENT_FAILED if episode.failed else Outcome.SUCCEEDED,
        output=episode.output(episode),
    )
