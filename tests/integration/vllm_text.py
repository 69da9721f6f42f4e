"""The text completions and embeddings of the stand-in for vLLM, in its server's exact shapes.

Sources: vLLM's ``entrypoints/openai/completion`` (protocol and serving) and ``entrypoints/pooling/embed``.
"""

import base64
import struct
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from vllm_pieces import FIRST_ID, PROMPT_IDS, Json, sse

if TYPE_CHECKING:
    from vllm_stub import VllmStub

VECTOR = [0.5, -0.25, 1.0]
"""Every embedding; each number is exact in four bytes."""


def prompts(body: Json) -> list[list[int]]:
    """The ids of each prompt: a text's are always the same, ids are their own."""
    prompt = body["prompt"]
    if isinstance(prompt, str):
        return [PROMPT_IDS]
    if all(isinstance(item, int) for item in prompt):
        return [prompt]
    return [item if isinstance(item, list) else PROMPT_IDS for item in prompt]


def _places(body: Json) -> list[tuple[int, list[int]]]:
    """Index and prompt of each choice: the alternatives of one prompt follow one another."""
    n = body.get("n") or 1
    return [(index, found) for index, found in enumerate(ids for ids in prompts(body) for _ in range(n))]


def whole(stub: "VllmStub", body: Json) -> Json:
    """A complete answer."""
    words = [*stub.words(), ""]
    ids = bool(stub.token_ids and body.get("return_token_ids"))
    choices = [
        {
            "index": index,
            "text": "".join(words),
            "logprobs": logprobs(words, 0, body, extra=stub.extra_logprobs),
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": [FIRST_ID + i for i in range(len(words))] if ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": prompt if ids else None,
            "routed_experts": None,
        }
        for index, prompt in _places(body)
    ]
    return {
        **head(body),
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {**usage(body, len(words) * len(choices)), "prompt_tokens_details": None},
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


async def stream(stub: "VllmStub", body: Json) -> AsyncIterator[bytes]:
    """A streamed answer; the stub's gate is before the last token."""
    words = [*stub.words(), ""]
    places = _places(body)
    for position, word in enumerate(words):
        last = position == len(words) - 1
        if last:
            await stub.gate.wait()
        for index, prompt in places:
            choice = _piece(stub, body, position, word, prompt)
            choice |= {"index": index, "finish_reason": "stop" if last else None}
            if last:
                choice["logprobs"] = logprobs([word], position, body, extra=stub.extra_logprobs)
            yield sse({**head(body), "choices": [choice]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield sse({**head(body), "choices": [], "usage": usage(body, len(words) * len(places))})
    yield b"data: [DONE]\n\n"


def _piece(stub: "VllmStub", body: Json, position: int, word: str, prompt: list[int]) -> Json:
    ids = bool(stub.token_ids and body.get("return_token_ids"))
    return {
        "index": 0,
        "text": word,
        "logprobs": logprobs([word], position, body),
        "finish_reason": None,
        "stop_reason": None,
        "prompt_token_ids": prompt if ids and position == 0 else None,
        "token_ids": [FIRST_ID + position] if ids else None,
    }


def logprobs(words: list[str], start: int, body: Json, extra: int = 0) -> Json | None:
    """The logprobs object of tokens ``start`` onwards, with ``extra`` numbers too many."""
    if body.get("logprobs") is None:
        return None
    values = [-0.1 * (start + i + 1) for i in range(len(words) + extra)]
    return {
        "text_offset": [start + i for i in range(len(words))],
        "token_logprobs": values,
        "tokens": words,
        "top_logprobs": [{word: value} for word, value in zip(words, values, strict=False)],
    }


def head(body: Json) -> Json:
    """What answers and chunks begin with."""
    return {"id": "cmpl-stub", "object": "text_completion", "created": 1, "model": body["model"]}


def usage(body: Json, completion: int) -> Json:
    """The usage object of a stream."""
    prompt = sum(map(len, prompts(body)))
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def embeddings(body: Json) -> Json:
    """The answer of ``/v1/embeddings``."""
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: Any = VECTOR
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    used = {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0}
    return {
        "id": "embd-stub",
        "object": "list",
        "created": 1,
        "model": body["model"],
        "data": [{"index": i, "object": "embedding", "embedding": vector} for i in range(len(inputs))],
        "usage": {**used, "prompt_tokens_details": None},
    }
