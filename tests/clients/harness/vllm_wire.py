"""A scripted turn in vLLM's JSON: chat and text completions, whole and in chunks, and embeddings.

Source: vLLM's ``entrypoints/openai`` (protocol.py and serving.py of chat and text completions).
"""

import base64
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from replica_script import END, Json, Turn, ids, logprob, pieces, prompt_ids, prompt_tokens, token_id

_CREATED = 1_700_000_000


def _asks_ids(request: Json) -> bool:
    return request.get("return_token_ids") is True


def _chat_logprobs(request: Json, tokens: Sequence[str]) -> Json | None:
    if not request.get("logprobs"):
        return None
    return {"content": [_chat_logprob(token, request.get("top_logprobs") or 0) for token in tokens]}


def _chat_logprob(token: str, alternatives: int) -> Json:
    own = {"token": token, "logprob": logprob(token), "bytes": list(token.encode())}
    others = [{"token": f"{token}~{rank}", "logprob": -9.0 - rank, "bytes": None} for rank in range(1, 20)]
    return {**own, "top_logprobs": [own, *others][:alternatives]}


def _usage(prompt: int, sampled: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + sampled,
        "completion_tokens": sampled,
        "prompt_tokens_details": None,
    }


def chat_completion(request: Json, turn: Turn) -> Json:
    prompt, n = prompt_tokens(request), request.get("n") or 1
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": turn.words(index) or None,
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                **({"tool_calls": [call.as_json() for call in turn.calls]} if turn.calls else {}),
                "reasoning": turn.reasoning or None,
            },
            "logprobs": _chat_logprobs(request, turn.tokens(index)),
            "finish_reason": turn.reason(),
            "stop_reason": None,
            "token_ids": ids(turn.tokens(index)) if _asks_ids(request) else None,
        }
        for index in range(n)
    ]
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": _CREATED,
        "model": request["model"],
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": _usage(len(prompt), sum(len(turn.tokens(index)) for index in range(n))),
        "prompt_logprobs": None,
        "prompt_token_ids": ids(prompt) if _asks_ids(request) else None,
        "kv_transfer_params": None,
    }


def chat_chunks(request: Json, turn: Turn) -> Iterator[Json]:
    head = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": request["model"],
    }
    prompt, n = prompt_tokens(request), request.get("n") or 1
    for index in range(n):
        opening = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        yield {
            **head,
            "choices": [opening],
            **({"prompt_token_ids": ids(prompt)} if _asks_ids(request) else {}),
        }
    spoken = [turn.tokens(index) for index in range(n)]
    deltas = [turn.deltas(index) for index in range(n)]
    for position in range(max(map(len, spoken))):
        for index in range(n):
            if position < len(spoken[index]):
                last = position == len(spoken[index]) - 1
                reason = turn.reason() if last else None
                choice = _chat_chunk(request, deltas[index][position], spoken[index][position], reason)
                yield {**head, "choices": [{"index": index, **choice}]}
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(len(prompt), sum(map(len, spoken)))}


def _chat_chunk(request: Json, delta: Json, token: str, reason: str | None) -> Json:
    return {
        "delta": delta,
        "logprobs": _chat_logprobs(request, [token]),
        "finish_reason": reason,
        **({"stop_reason": None} if reason else {}),
        **({"token_ids": ids([token])} if _asks_ids(request) else {}),
    }


def _text_logprobs(request: Json, tokens: Sequence[str]) -> Json | None:
    """The older shape: parallel lists. 0 asks for the sampled token's alone."""
    if not isinstance(request.get("logprobs"), int) or isinstance(request["logprobs"], bool):
        return None
    return {
        "text_offset": [len("".join(tokens[:index])) for index in range(len(tokens))],
        "token_logprobs": [logprob(token) for token in tokens],
        "tokens": list(tokens),
        "top_logprobs": [_text_alternatives(token, request["logprobs"]) for token in tokens],
    }


def _text_alternatives(token: str, count: int) -> dict[str, float]:
    """The sampled token is there whatever the count."""
    others = {f"{token}~{rank}": -9.0 - rank for rank in range(1, count + 1)}
    return {token: logprob(token), **others}


def text_completion(request: Json, turn: Turn) -> Json:
    prompts, n = prompt_ids(request["prompt"]), request.get("n") or 1
    choices = [
        {
            "index": index,
            "text": turn.words(index),
            "logprobs": _text_logprobs(request, turn.tokens(index)),
            "finish_reason": turn.reason(),
            "stop_reason": None,
            "token_ids": ids(turn.tokens(index)) if _asks_ids(request) else None,
            "prompt_logprobs": None,
            "prompt_token_ids": prompts[index // n] if _asks_ids(request) else None,
        }
        for index in range(len(prompts) * n)
    ]
    sampled = sum(len(turn.tokens(index)) for index in range(len(choices)))
    return {
        **_text_head(request),
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": _usage(sum(map(len, prompts)), sampled),
        "kv_transfer_params": None,
    }


def _text_head(request: Json) -> Json:
    return {
        "id": "cmpl-scripted",
        "object": "text_completion",
        "created": _CREATED,
        "model": request["model"],
    }


def text_chunks(request: Json, turn: Turn) -> Iterator[Json]:
    prompts, n = prompt_ids(request["prompt"]), request.get("n") or 1
    sampled = 0
    for index in range(len(prompts) * n):
        tokens = turn.tokens(index)
        sampled += len(tokens)
        for position, token in enumerate(tokens):
            last = position == len(tokens) - 1
            choice = {
                "index": index,
                "text": "" if token == END else token,
                "logprobs": _text_logprobs(request, [token]),
                "finish_reason": turn.reason() if last else None,
                "stop_reason": None,
                "prompt_token_ids": prompts[index // n] if _asks_ids(request) and not position else None,
                "token_ids": ids([token]) if _asks_ids(request) else None,
            }
            yield {**_text_head(request), "choices": [choice]}
    if (request.get("stream_options") or {}).get("include_usage"):
        usage = _usage(sum(map(len, prompts)), sampled)
        yield {**_text_head(request), "choices": [], "usage": usage}


def embedding(text: str) -> list[float]:
    """A text's vector; its numbers are exact in 32 bits."""
    return [token_id(f"{text}/{dimension}") / 65536 for dimension in range(4)]


def embeddings(request: Json) -> Json:
    texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
    vectors: list[Any] = [embedding(str(text)) for text in texts]
    if request.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack("<4f", *vector)).decode() for vector in vectors]
    count = sum(len(pieces(str(text))) for text in texts)
    return {
        "id": "embd-scripted",
        "object": "list",
        "created": _CREATED,
        "model": request["model"],
        "data": [
            {"index": index, "object": "embedding", "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {**_usage(count, 0)},
    }


def tokenized(request: Json) -> Json:
    tokens = ids(prompt_tokens(request))
    return {"count": len(tokens), "max_model_len": 4096, "tokens": tokens, "token_strs": None}
