"""From a chat completion to a Message: content blocks, why it stopped, and what it cost."""

from collections.abc import Sequence
from typing import Any

from leyden_platform.dialects.messages_arguments import json_object, tool_input
from leyden_schemas import JsonObject

SIGNATURE = "unsigned"
"""The signature of every thinking block. Clients keep a block for the next turn only if it has one."""


def from_chat(answer: JsonObject, request: JsonObject, *, message_id: str) -> JsonObject:
    """The Message that says what the first alternative of a chat completion says.

    Total: what an answer lacks, the Message lacks. An answer without text and calls has no content.
    """
    choice = first_choice(answer)
    said = choice.get("message")
    said = said if isinstance(said, dict) else {}
    content = _content(said, message_id)
    stop_reason, stop_sequence = stopped(
        choice.get("finish_reason"),
        choice.get("stop_reason"),
        calls=[_text(function.get("arguments")) for _index, _call, function in calls_of(said)],
        refused=is_refusal(said),
    )
    return {
        **message(message_id, model_of(answer, request), content, usage_of(answer.get("usage"))),
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
    }


def message(message_id: str, model: str, content: list[JsonObject], usage: JsonObject) -> JsonObject:
    """A Message that has not stopped yet."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def first_choice(answer: JsonObject) -> JsonObject:
    """The alternative with index 0, of an answer or a chunk; empty if there is none."""
    choices = answer.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                return choice
    return {}


def model_of(answer: JsonObject, request: JsonObject) -> str:
    """The model that answered, else the one that was asked for."""
    return _text(answer.get("model")) or _text(request.get("model"))


def thought_of(said: JsonObject) -> str:
    """The reasoning of a message or delta, under either of its names."""
    return _text(said.get("reasoning_content")) or _text(said.get("reasoning"))


def written_of(said: JsonObject) -> str:
    """The text of a message or delta; a refusal is text too."""
    return _text(said.get("content")) + _text(said.get("refusal"))


def is_refusal(said: JsonObject) -> bool:
    """Whether a message or delta says no."""
    return bool(_text(said.get("refusal")))


def calls_of(said: JsonObject) -> list[tuple[int, JsonObject, JsonObject]]:
    """Index, call and function of each tool call, or part of one, in a message or delta."""
    calls = said.get("tool_calls")
    if not isinstance(calls, list):
        return []
    found = []
    for position, call in enumerate(calls):
        if isinstance(call, dict):
            index, function = call.get("index"), call.get("function")
            found.append(
                (
                    index if isinstance(index, int) else position,
                    call,
                    function if isinstance(function, dict) else {},
                )
            )
    return found


def call_id(call: JsonObject, index: int, message_id: str) -> str:
    """The id of a call, made from the Message's where the server gave none."""
    return _text(call.get("id")) or f"toolu_{index}_{message_id}"


def stopped(finish: Any, matched: Any, *, calls: Sequence[str], refused: bool) -> tuple[str, str | None]:
    """Stop reason and stop sequence, from ``finish_reason`` and, in vLLM's ``stop_reason``, the match.

    ``calls`` are the arguments of each call. Calls count for more than the finish reason ``stop``, which is
    what a forced call ends with, unless a stop sequence cut one short: agents would run it.
    """
    sequence = matched if isinstance(matched, str) else None
    cut = sequence is not None and any(json_object(arguments) is None for arguments in calls)
    if finish == "length":
        return "max_tokens", None
    if refused or finish == "content_filter":
        return "refusal", None
    if calls and not cut:
        return "tool_use", None
    return ("end_turn", None) if sequence is None else ("stop_sequence", sequence)


def usage_of(usage: Any) -> JsonObject:
    """Tokens in and out; those read from a cache are counted apart, as the protocol has it."""
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counted = {
        "input_tokens": max(0, _count(usage.get("prompt_tokens")) - _count(cached)),
        "output_tokens": _count(usage.get("completion_tokens")),
    }
    return counted if cached is None else counted | {"cache_read_input_tokens": _count(cached)}


def _content(said: JsonObject, message_id: str) -> list[JsonObject]:
    content: list[JsonObject] = []
    if thought := thought_of(said):
        content.append(thinking_block(thought))
    if written := written_of(said):
        content.append(text_block(written))
    for index, call, function in calls_of(said):
        used = tool_use_block(call_id(call, index, message_id), _text(function.get("name")))
        content.append(used | {"input": tool_input(_text(function.get("arguments")))})
    return content


def text_block(written: str) -> JsonObject:
    """A content block of text."""
    return {"type": "text", "text": written}


def thinking_block(thought: str, signature: str = SIGNATURE) -> JsonObject:
    """A content block of reasoning."""
    return {"type": "thinking", "thinking": thought, "signature": signature}


def tool_use_block(use_id: str, name: str) -> JsonObject:
    """A content block of a call, without arguments."""
    return {"type": "tool_use", "id": use_id, "name": name, "input": {}}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
