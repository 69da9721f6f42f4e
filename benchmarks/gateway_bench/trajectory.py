"""One long rollout, turn by turn: what the agent sends, and what the stub answers to it.

Turn ``t`` adds ``added`` tokens of user and tool text and samples 200. Its prompt is everything before it, so
its ids extend the previous turn's prompt and answer. ``seed`` carries ``t`` to the stub. A turn sent *alone*,
without the conversation before it, has only its own tokens as prompt: a log of such turns holds each once.
"""

import json
from dataclasses import dataclass
from typing import Any

from gateway_bench.payload import MODEL, SAMPLED_TOKENS, compact, prompt_ids, text, whole


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of ``turns`` turns."""

    turns: int
    added: int

    @classmethod
    def of(cls, turns: int, tokens: int) -> "Conversation":
        """``turns`` turns that end with ``tokens`` tokens in all."""
        return cls(turns, tokens // turns - SAMPLED_TOKENS)

    @property
    def unique_tokens(self) -> int:
        """Tokens of the conversation, each counted once."""
        return self.turns * self._step

    @property
    def _step(self) -> int:
        return self.added + SAMPLED_TOKENS

    def sampled(self, turn: int) -> range:
        """The positions that turn ``turn`` samples."""
        start = turn * self._step + self.added
        return range(start, start + SAMPLED_TOKENS)

    def prompt(self, turn: int, *, alone: bool) -> range:
        """The positions of its prompt."""
        return range(turn * self._step if alone else 0, turn * self._step + self.added)

    def request(self, turn: int, *, alone: bool) -> bytes:
        """What the agent sends."""
        messages: list[dict[str, Any]] = []
        for earlier in range(turn if alone else 0, turn + 1):
            messages.append({"role": "user", "content": text(self.prompt(earlier, alone=True))})
            if earlier < turn:
                messages.append({"role": "assistant", "content": text(self.sampled(earlier))})
        return compact({"model": MODEL, "seed": turn, "messages": messages, "max_tokens": SAMPLED_TOKENS})

    def answer(self, request: bytes) -> bytes:
        """What the stub answers."""
        body = json.loads(request)
        turn, alone = int(body.get("seed", 0)), len(body["messages"]) == 1
        return compact(whole(prompt_ids(self.prompt(turn, alone=alone)), self.sampled(turn)))
