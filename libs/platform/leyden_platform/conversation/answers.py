"""The answer in a recorded response: text, calls, refusal and why it ended, in any of the four protocols."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from leyden_platform.conversation.content import items, mapping, shown, string, text_of
from leyden_platform.dialects.messages_arguments import RAW_ARGUMENTS
from leyden_schemas import JsonObject


class Made(NamedTuple):
    """A call as it stands in a response."""

    id: str
    name: str
    arguments: object


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said."""

    text: str = ""
    calls: tuple[Made, ...] = ()
    refused: bool = False
    finish_reason: str | None = None


def answer_of(response: JsonObject | None) -> Answer | None:
    """The (first) answer of a response; None when it has none."""
    response = response or {}
    if "choices" in response:
        return _of_choice(next(items(response["choices"]), {}))
    if isinstance(response.get("output"), list):
        return _of_response(response)
    if "content" in response and response.get("type", "message") == "message":
        return _of_message(response)
    return None


def sampled_tokens(response: JsonObject | None) -> int:
    """How many tokens the response says were sampled; 0 when it does not."""
    usage = mapping((response or {}).get("usage"))
    counts = (usage.get(name) for name in ("completion_tokens", "output_tokens"))
    return next((count for count in counts if type(count) is int), 0)


def _of_choice(choice: Mapping[str, Any]) -> Answer | None:
    finish = string(choice.get("finish_reason")) or None
    if isinstance(written := choice.get("text"), str):
        return Answer(written, finish_reason=finish)
    message = mapping(choice.get("message"))
    if not message:
        return None
    refusal = string(message.get("refusal"))
    return Answer(
        text=text_of(message.get("content")) or refusal,
        calls=tuple(_chat_calls(message)),
        refused=bool(refusal) or finish == "content_filter",
        finish_reason=finish,
    )


def _chat_calls(message: Mapping[str, Any]) -> Iterator[Made]:
    for call in items(message.get("tool_calls")):
        if call.get("type") == "custom":
            custom = mapping(call.get("custom"))
            yield Made(string(call.get("id")), string(custom.get("name")), {"input": custom.get("input")})
        else:
            function = mapping(call.get("function"))
            yield Made(string(call.get("id")), string(function.get("name")), function.get("arguments"))
    if single := mapping(message.get("function_call")):  # as before there were tools; it has no id
        yield Made("", string(single.get("name")), single.get("arguments"))


def _of_response(response: JsonObject) -> Answer | None:
    if response.get("status") in ("failed", "in_progress", "queued", "cancelled"):
        return None
    output = list(items(response["output"]))
    parts = [part for item in output if item.get("type") == "message" for part in items(item.get("content"))]
    refusals = [string(part.get("refusal")) for part in parts if part.get("type") == "refusal"]
    why = mapping(response.get("incomplete_details")).get("reason")
    return Answer(
        text=text_of(parts) or "".join(refusals),
        calls=tuple(
            Made(string(item.get("call_id")), string(item.get("name")), _response_arguments(item))
            for item in output
            if item.get("type") in ("function_call", "custom_tool_call")
        ),
        refused=bool(refusals) or why == "content_filter",
        finish_reason={"max_output_tokens": "length", "content_filter": "content_filter"}.get(str(why)),
    )


def _response_arguments(item: Mapping[str, Any]) -> object:
    return item.get("arguments") if item.get("type") == "function_call" else {"input": item.get("input")}


def _of_message(response: JsonObject) -> Answer:
    content, stopped = response["content"], response.get("stop_reason")
    return Answer(
        text=text_of(content),
        calls=tuple(
            Made(string(block.get("id")), string(block.get("name")), _input(block.get("input")))
            for block in items(content)
            if block.get("type") == "tool_use"
        ),
        refused=stopped == "refusal",
        finish_reason="length" if stopped == "max_tokens" else None,
    )


def _input(value: object) -> object:
    """The object, or the text that stands in its place when the model wrote no object."""
    if isinstance(value, dict) and value.keys() == {RAW_ARGUMENTS}:
        return shown(value[RAW_ARGUMENTS])
    return value
