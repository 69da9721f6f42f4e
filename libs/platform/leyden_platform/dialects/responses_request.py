"""A Responses request as a chat completions request.

Whatever has the same name and meaning in both, or is not known here, passes unchanged. What cannot be done by
one chat completion (state on the server, tools that the server runs) is refused with what to do instead.
"""

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_platform.dialects.responses_checks import object_at, object_of, text_of
from leyden_platform.dialects.responses_input import messages_of
from leyden_platform.dialects.responses_tools import tools_of
from leyden_schemas import JsonObject

LOGPROBS = "message.output_text.logprobs"
"""What ``include`` names when the caller wants log-probabilities."""

_REFUSED = {
    "previous_response_id": "responses are not stored here: send the whole conversation in `input`",
    "conversation": "conversations are not stored here: send the whole conversation in `input`",
    "prompt": "prompts are not stored here: send `instructions` and `input`",
    "background": "answers are not kept for later: leave out `background` and read or stream the answer",
    "messages": "the Responses API has no `messages`: send `input`, or use /v1/chat/completions",
}
_TRANSLATED = frozenset(
    {
        "access_programs",
        "background_options",
        "context_management",
        "image",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "parallel_tool_calls",
        "reasoning",
        "store",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
        *_REFUSED,
    }
)
"""Fields of a Responses request that a chat completion calls otherwise, or does not have."""


def to_chat(request: JsonObject) -> JsonObject:
    """The chat completions request that asks for the same. Raises ``UnsupportedRequest``."""
    _refuse(request)
    return {
        **{name: value for name, value in request.items() if name not in _TRANSLATED},
        "messages": _messages(request),
        **tools_of(request),
        **_text(request),
        **_limits(request),
        **_logprobs(request),
        **_stream(request),
    }


def wants_logprobs(request: JsonObject) -> bool:
    """Whether the caller asked for the log-probabilities of the text."""
    include = request.get("include")
    return isinstance(include, list) and LOGPROBS in include


def _refuse(request: JsonObject) -> None:
    for name, remedy in _REFUSED.items():
        if request.get(name):
            raise UnsupportedRequest(f"`{name}` is not supported: {remedy}", name)
    if request.get("n") not in (None, 1):
        raise UnsupportedRequest("`n` has to be 1: a Response holds one answer, so make `n` requests", "n")


def _messages(request: JsonObject) -> list[JsonObject]:
    instructions = request.get("instructions")
    if instructions is not None:
        text_of(request, "instructions", "")
    messages = messages_of(request.get("input"), instructions)
    if not messages:
        raise UnsupportedRequest("`input` is empty: send a text or a list of items", "input")
    return messages


def _text(request: JsonObject) -> JsonObject:
    text = object_of(request, "text", "")
    chat: JsonObject = {}
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    shape = object_of(text, "format", "text")
    match shape.get("type", "text" if not shape else None):
        case "text":
            pass
        case "json_object":
            chat["response_format"] = {"type": "json_object"}
        case "json_schema":
            chat["response_format"] = {"type": "json_schema", "json_schema": _schema(shape)}
        case other:
            raise UnsupportedRequest(
                f"`text.format` of type {other!r} is not supported: use text, json_object or json_schema",
                "text.format.type",
            )
    return chat


def _schema(shape: JsonObject) -> JsonObject:
    text_of(shape, "name", "text.format")
    object_at(shape.get("schema"), "text.format.schema")
    return {name: value for name, value in shape.items() if name != "type" and value is not None}


def _limits(request: JsonObject) -> JsonObject:
    effort = object_of(request, "reasoning", "").get("effort")
    limit = request.get("max_output_tokens")
    return {
        **({} if effort is None else {"reasoning_effort": effort}),
        **({} if limit is None else {"max_completion_tokens": limit}),
    }


def _logprobs(request: JsonObject) -> JsonObject:
    if not wants_logprobs(request):
        return {}
    top = request.get("top_logprobs")
    return {"logprobs": True, **({} if top is None else {"top_logprobs": top})}


def _stream(request: JsonObject) -> JsonObject:
    """A Response always ends with its usage, so a stream has to bring it."""
    options = object_of(request, "stream_options", "")
    if not request.get("stream"):
        return {}
    passed = {name: value for name, value in options.items() if name != "include_obfuscation"}
    return {"stream_options": {**passed, "include_usage": True}}
