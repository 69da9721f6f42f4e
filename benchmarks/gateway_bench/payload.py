"""What the stub upstream answers, in vLLM's own JSON and SSE: prompt ids, sampled ids and log-probabilities.

Every value follows from its position in the conversation, so that a later turn's prompt extends an earlier
turn's and two runs send the same bytes.
"""

import json
from collections.abc import Sequence
from typing import Any

MODEL = "bench@1"
PROMPT_TOKENS = 500
SAMPLED_TOKENS = 200
VOCABULARY = 151_643
FIRST_ID = 100_000
"""Stands where the stub writes a number of its own into each answer, so that no two prompts are equal."""
_SYLLABLES = (
    "ka",
    "lo",
    "mi",
    "ter",
    "san",
    "vo",
    "ri",
    "den",
    "qu",
    "ez",
    "on",
    "bal",
    "ith",
    "pro",
    "u",
    "gan",
)


def token_id(position: int) -> int:
    """The id of the token at ``position`` of a conversation."""
    return (position * 2_654_435_761 + 12_345) % VOCABULARY


def token_text(position: int) -> str:
    """Its text: words that do not repeat in step, so that compression does not flatter anybody."""
    number = token_id(position)
    return " " + _SYLLABLES[number % 16] + _SYLLABLES[number // 16 % 16]


def text(positions: range) -> str:
    """The text of consecutive tokens."""
    return "".join(map(token_text, positions))


def prompt_ids(positions: range) -> list[int]:
    """The ids of consecutive tokens."""
    return [token_id(position) for position in positions]


def logprobs(positions: Sequence[int]) -> dict[str, Any]:
    """The ``logprobs`` object of sampled tokens; the numbers have as many digits as a float32 of vLLM's."""
    return {
        "content": [
            {
                "token": token_text(position),
                "logprob": -(token_id(position) % 1000 + 1) / 777.7,
                "bytes": list(token_text(position).encode()),
                "top_logprobs": [],
            }
            for position in positions
        ]
    }


def usage(prompt: int, sampled: int) -> dict[str, Any]:
    """The ``usage`` object."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + sampled, "completion_tokens": sampled}


def whole(prompt: list[int], sampled: range) -> dict[str, Any]:
    """A chat completion in one piece, about 24 kB for 500 prompt and 200 sampled tokens."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text(sampled),
        "refusal": None,
        "tool_calls": [],
    }
    return {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": logprobs(sampled),
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": prompt_ids(sampled),
            }
        ],
        "usage": usage(len(prompt), len(sampled)),
        "prompt_logprobs": None,
        "prompt_token_ids": prompt,
    }


def chunks(prompt: list[int], sampled: range) -> list[dict[str, Any]]:
    """The same completion streamed: the role and prompt ids, a chunk a token, usage."""
    first = _chunk({"role": "assistant", "content": ""}, None) | {"prompt_token_ids": prompt}
    pieces = [first]
    for position in sampled:
        piece = _chunk({"content": token_text(position)}, "stop" if position == sampled[-1] else None)
        piece["choices"][0] |= {"logprobs": logprobs([position]), "token_ids": [token_id(position)]}
        pieces.append(piece)
    return [*pieces, _head() | {"choices": [], "usage": usage(len(prompt), len(sampled))}]


def _chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return _head() | {"choices": [choice]}


def _head() -> dict[str, Any]:
    return {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": MODEL,
    }


def compact(value: Any) -> bytes:
    """JSON without spaces, as vLLM writes it."""
    return json.dumps(value, separators=(",", ":")).encode()


def request_body(*, streamed: bool) -> bytes:
    """What the load generator sends: about 500 tokens of conversation."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a careful assistant that calls tools."},
            {"role": "user", "content": text(range(PROMPT_TOKENS - 20))},
        ],
        "temperature": 1.0,
        "max_tokens": SAMPLED_TOKENS,
    }
    return compact(body | ({"stream": True} if streamed else {}))
