"""The items of a Responses request's ``input``, as chat messages.

One turn of the assistant is several items there (reasoning, text, each call) and one message here, so that a
replica sees a conversation exactly as a chat client would have sent it.
"""

from typing import Any

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_platform.dialects.responses_checks import object_of, objects_at, place, text_of
from leyden_schemas import JsonObject

Content = str | list[JsonObject]

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""Open models' chat templates know no developer; most skip such a message without a word."""
_EITHER = "a string or a list"


def messages_of(items: Any, instructions: str | None) -> list[JsonObject]:
    """The chat messages of ``input``, which is a string or a list of items. Raises ``UnsupportedRequest``."""
    transcript = _Transcript()
    if instructions is not None:
        transcript.say("system", instructions)
    if isinstance(items, str):
        transcript.say("user", items)
    else:
        for item, where in objects_at(items, "input", _EITHER):
            _take(transcript, item, where)
    return transcript.finished()


class _Transcript:
    """Messages as they come together."""

    def __init__(self) -> None:
        self._messages: list[JsonObject] = []

    def say(self, role: str, content: Content) -> None:
        if role == "assistant":
            turn = self._open_turn()
            turn["content"] = _joined(turn["content"], content)
        else:
            self._messages.append({"role": role, "content": content})

    def think(self, text: str) -> None:
        """Reasoning goes back under both names that servers read it by."""
        turn = self._open_turn()
        turn["reasoning"] = turn["reasoning_content"] = turn.get("reasoning", "") + text

    def call(self, call: JsonObject) -> None:
        last = self._last_of_assistant()
        turn = self._new_turn() if last is None else last
        turn.setdefault("tool_calls", []).append(call)

    def result(self, call_id: str, content: Content) -> None:
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def finished(self) -> list[JsonObject]:
        for message in self._messages:
            if message["content"] is None and "tool_calls" not in message:
                message["content"] = ""
        return self._messages

    def _open_turn(self) -> JsonObject:
        """The assistant's turn that further text or reasoning belongs to.

        Two texts in a row are two turns. But what follows a call that has no result yet is of the same turn,
        because a chat message with calls has to be followed by their results.
        """
        last = self._last_of_assistant()
        if last is not None and (last["content"] is None or "tool_calls" in last):
            return last
        return self._new_turn()

    def _last_of_assistant(self) -> JsonObject | None:
        last = self._messages[-1] if self._messages else None
        return last if last is not None and last["role"] == "assistant" else None

    def _new_turn(self) -> JsonObject:
        turn: JsonObject = {"role": "assistant", "content": None}
        self._messages.append(turn)
        return turn


def _take(transcript: _Transcript, item: JsonObject, where: str) -> None:
    match item.get("type", "message" if "role" in item else None):
        case "message":
            role = _role(item, where)
            transcript.say(role, _content(item.get("content"), place(where, "content"), role))
        case "function_call":
            transcript.call(_call(item, where))
        case "function_call_output":
            output = _content(item.get("output"), place(where, "output"), "tool")
            transcript.result(text_of(item, "call_id", where), output)
        case "reasoning":
            if text := _reasoning(item, where):
                transcript.think(text)
        case "item_reference":
            raise UnsupportedRequest(
                "Responses are not stored here, so an item cannot be referred to: send the item itself",
                place(where, "type"),
            )
        case None:
            raise UnsupportedRequest(
                f"`{where}` has neither a type nor a role: send a message, a function_call, "
                "a function_call_output or a reasoning item",
                place(where, "type"),
            )
        case other:
            raise UnsupportedRequest(
                f"items of type {other!r} cannot be sent to a chat model: send message, function_call, "
                "function_call_output and reasoning items",
                place(where, "type"),
            )


def _role(item: JsonObject, where: str) -> str:
    role = _ROLES.get(text_of(item, "role", where))
    if role is None:
        raise UnsupportedRequest(
            f"`{where}.role` has to be user, assistant, system or developer; results of tools are "
            "function_call_output items",
            place(where, "role"),
        )
    return role


def _call(item: JsonObject, where: str) -> JsonObject:
    function = {"name": text_of(item, "name", where), "arguments": text_of(item, "arguments", where)}
    return {"id": text_of(item, "call_id", where), "type": "function", "function": function}


def _reasoning(item: JsonObject, where: str) -> str:
    """What was thought: the text itself, else its summary; empty when it is encrypted or left out."""
    for name in ("content", "summary"):
        parts = item.get(name)
        if parts is not None and (text := _texts(parts, place(where, name))):
            return text
    return ""


def _texts(parts: Any, where: str) -> str:
    return "".join(text_of(part, "text", path) for part, path in objects_at(parts, where))


def _content(value: Any, where: str, role: str) -> Content:
    """A message's content: plain text where that says the same, else a list of parts."""
    if isinstance(value, str):
        return value
    parts = [_part(part, path) for part, path in objects_at(value, where, _EITHER)]
    plain = all(part["type"] == "text" for part in parts)
    if plain and (len(parts) < 2 or role == "assistant"):
        return "".join(part["text"] for part in parts)
    return parts


def _joined(before: Content | None, content: Content) -> Content:
    if before is None:
        return content
    if isinstance(before, str) and isinstance(content, str):
        return before + content
    return _as_parts(before) + _as_parts(content)


def _as_parts(content: Content) -> list[JsonObject]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: JsonObject, where: str) -> JsonObject:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": text_of(part, "text", where)}
        case "refusal":
            return {"type": "refusal", "refusal": text_of(part, "refusal", where)}
        case "input_image":
            return {"type": "image_url", "image_url": _image(part, where)}
        case "input_audio":
            return {"type": "input_audio", "input_audio": object_of(part, "input_audio", where)}
        case "input_file":
            raise UnsupportedRequest(
                "files cannot be sent to a chat model: send the text in them, or their pages as images", where
            )
        case other:
            raise UnsupportedRequest(
                f"`{where}` is content of type {other!r}: send input_text, input_image, input_audio, "
                "output_text or refusal",
                place(where, "type"),
            )


def _image(part: JsonObject, where: str) -> JsonObject:
    if part.get("image_url") is None and part.get("file_id") is not None:
        raise UnsupportedRequest(
            "files are not stored here: send the image as `image_url`, for example as a data URL",
            place(where, "file_id"),
        )
    image = {"url": text_of(part, "image_url", where)}
    if part.get("detail") is not None:
        detail = text_of(part, "detail", where)
        # Chat completions stop at "high", which keeps as much of the image as they can.
        image["detail"] = "high" if detail == "original" else detail
    return image
