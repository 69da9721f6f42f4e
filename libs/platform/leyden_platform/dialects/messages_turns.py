"""The conversation: the turns of a Messages request as chat messages.

Turns of one role in a row are one turn, as the protocol has it; many chat templates refuse them apart. Text
blocks of a turn are joined, by line breaks where they are separate things to read, and by nothing where the
assistant wrote them, so that what it said before is again what it sampled. Thinking goes back under both
names that servers read it by. An assistant's redacted thinking is dropped: nobody here can read it.
"""

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_platform.dialects.messages_fields import blocks, objects, text, unsupported
from leyden_schemas import JsonObject

Placed = tuple[JsonObject, str]
"""A content block and its place in the request."""

_ROLES = ("user", "assistant", "system")
_BILLING_HEADER = "x-anthropic-billing-header"
"""How Claude Code starts a system block that is meant for the biller. It differs from call to call, so left
in it would keep a turn's prompt from extending the last one's."""


def system_messages(system: Any) -> list[JsonObject]:
    """The system prompt as no or one chat message. Raises ``UnsupportedRequest``."""
    if system is None:
        return []
    said = _text_only(blocks(system, "system"))
    return [{"role": "system", "content": said}] if said else []


def chat_messages(messages: Any) -> list[JsonObject]:
    """The turns as chat messages. Raises ``UnsupportedRequest``.

    A user turn gives its tool results first, one message each, then what the user said beside them.
    """
    said: list[JsonObject] = []
    for role, run in groupby(objects(messages, "messages"), key=_role):
        turn = [block for message, at in run for block in blocks(message.get("content"), f"{at}.content")]
        match role:
            case "user":
                said += _user(turn)
            case "assistant":
                said.append(_assistant(turn))
            case _:
                said.append({"role": "system", "content": _text_only(turn)})
    if not said:
        raise UnsupportedRequest("messages must hold at least one message", "messages")
    return said


def _role(placed: Placed) -> str:
    message, where = placed
    role = message.get("role")
    if role not in _ROLES:
        raise UnsupportedRequest(f"{where}.role must be 'user', 'assistant' or 'system'", f"{where}.role")
    return str(role)


def _text_only(content: Iterable[Placed]) -> str:
    texts = []
    for block, place in content:
        if block.get("type") != "text":
            raise unsupported(block, place, "text")
        if not (written := text(block, "text", place)).startswith(_BILLING_HEADER):
            texts.append(written)
    return "\n".join(filter(None, texts))


def _user(turn: Iterable[Placed]) -> list[JsonObject]:
    results: list[JsonObject] = []
    parts: list[JsonObject] = []
    for block, place in turn:
        if block.get("type") == "tool_result":
            results.append(_tool_message(block, place))
        else:
            parts += _parts(block, place)
    if parts or not results:
        results.append({"role": "user", "content": _content(parts)})
    return results


def _tool_message(block: JsonObject, where: str) -> JsonObject:
    """Chat completions have no field for a failed tool, so the text says it."""
    call_id = text(block, "tool_use_id", where)
    content = block.get("content")
    place = f"{where}.content"
    parts = [] if content is None else [part for item in blocks(content, place) for part in _parts(*item)]
    if block.get("is_error") is True:
        parts = _as_error(parts)
    return {"role": "tool", "tool_call_id": call_id, "content": _content(parts)}


def _as_error(parts: list[JsonObject]) -> list[JsonObject]:
    match parts:
        case [{"type": "text", "text": str(said)}, *rest] if said:
            marked = said if said.lower().startswith("error") else f"Error: {said}"
            return [_text_part(marked), *rest]
        case _:
            return [_text_part("Error"), *parts]


def _parts(block: JsonObject, where: str) -> list[JsonObject]:
    match block.get("type"):
        case "text":
            return [_text_part(text(block, "text", where))]
        case "image":
            return [{"type": "image_url", "image_url": {"url": _image_url(block, f"{where}.source")}}]
        case "document":
            return [*_heading(block, "title", "context"), *_document(block.get("source"), f"{where}.source")]
        case "search_result":
            said = _text_only(blocks(block.get("content"), f"{where}.content"))
            return [*_heading(block, "title", "source"), _text_part(said)]
        case _:
            raise unsupported(block, where, "text, images, documents of text or tool results")


def _text_part(written: str) -> JsonObject:
    return {"type": "text", "text": written}


def _heading(block: JsonObject, *names: str) -> list[JsonObject]:
    """What a document says about itself; the model is to see it, as it is to see the text."""
    return [_text_part(said) for name in names if isinstance(said := block.get(name), str)]


def _document(source: Any, where: str) -> list[JsonObject]:
    match source:
        case {"type": "text", "data": str(data)}:
            return [_text_part(data)]
        case {"type": "content", "content": content}:
            return [part for item in blocks(content, f"{where}.content") for part in _of_document(*item)]
        case _:
            raise UnsupportedRequest(
                f"{where} must be text with data, or content; no files are read here, so send the text of a "
                "PDF, or its pages as images",
                where,
            )


def _of_document(block: JsonObject, where: str) -> list[JsonObject]:
    if block.get("type") not in ("text", "image"):
        raise unsupported(block, where, "text or images in a document")
    return _parts(block, where)


def _image_url(block: JsonObject, where: str) -> str:
    match block.get("source"):
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return f"data:{media_type};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
        case _:
            raise UnsupportedRequest(
                f"{where} must be base64 with media_type and data, or a url; no files are uploaded here",
                where,
            )


def _content(parts: list[JsonObject]) -> str | list[JsonObject]:
    filled = [part for part in parts if part.get("text") != ""]
    if any(part["type"] != "text" for part in filled):
        return filled
    return "\n".join(part["text"] for part in filled)


def _assistant(turn: Iterable[Placed]) -> JsonObject:
    texts, thoughts, calls = [], [], []
    for block, place in turn:
        match block.get("type"):
            case "text":
                texts.append(text(block, "text", place))
            case "thinking":
                thoughts.append(text(block, "thinking", place))
            case "redacted_thinking":
                pass
            case "tool_use":
                calls.append(_tool_call(block, place))
            case _:
                raise unsupported(block, place, "text, thinking or tool_use in an assistant's turn")
    said = "".join(texts)
    message: JsonObject = {"role": "assistant", "content": said or (None if calls else "")}
    if thought := "".join(thoughts):
        message |= {"reasoning_content": thought, "reasoning": thought}
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: JsonObject, where: str) -> JsonObject:
    given = block.get("input")
    if not isinstance(given, dict):
        raise UnsupportedRequest(f"{where}.input must be an object", f"{where}.input")
    try:
        arguments = json.dumps(given, ensure_ascii=False)
    except RecursionError:
        raise UnsupportedRequest(f"{where}.input is nested too deeply", f"{where}.input") from None
    function = {"name": text(block, "name", where), "arguments": arguments}
    return {"id": text(block, "id", where), "type": "function", "function": function}
