"""From a Messages request to the chat completion that answers it."""

from collections.abc import Callable
from typing import Any

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_platform.dialects.messages_fields import objects, optional_object, text
from leyden_platform.dialects.messages_turns import chat_messages, system_messages
from leyden_schemas import JsonObject

_TRANSLATED = frozenset(
    {
        "max_tokens",
        "messages",
        "metadata",
        "output_config",
        "output_format",
        "stop_sequences",
        "system",
        "thread",
        "thinking",
        "tool_choice",
        "tools",
    }
)

_WITHOUT_EFFECT = frozenset(
    {
        "billing_policy",
        "cache_control",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "service_tier",
        "speed",
    }
)
"""Fields of the protocol about billing, placement and caching, which change no answer: left out, because a
strict server would refuse the call for them."""

_REFUSED = {
    "compaction": "conversations are not summarised here: ask for the summary in messages",
    "container": "no code runs here: let the agent run it, as a tool with an input_schema",
    "mcp_servers": "MCP servers are not called from here: let the agent call them, their tools in `tools`",
}
"""Fields without which the answer would be another one than was asked for, and what to do instead."""

_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

_EFFORTS = {"xhigh": "high", "max": "high"}
"""Efforts beyond the three that every server with ``reasoning_effort`` knows."""


def to_chat(request: JsonObject) -> JsonObject:
    """The chat completion request that means the same. Raises ``UnsupportedRequest``.

    Fields that Messages does not define (``seed``, ``chat_template_kwargs``, …) are passed on as they are.
    A last turn of the assistant is continued. ``thinking`` switches the chat template's thinking on or off;
    its ``budget_tokens`` is not enforced, for a server could only do so by forcing tokens that the policy did
    not sample.
    """
    _refuse_thread(request)
    _refuse(request)
    passed = {
        key: value
        for key, value in request.items()
        if not (key in _TRANSLATED or key in _WITHOUT_EFFECT or key in _REFUSED)
    }
    chat: JsonObject = {
        **passed,
        "messages": system_messages(request.get("system")) + chat_messages(request.get("messages")),
        "max_tokens": _max_tokens(request),
    }
    for translate in _OPTIONAL:
        chat |= translate(request)
    return chat | _continuation(chat)


def _refuse_thread(request: JsonObject) -> None:
    """A thread's later requests bring only what is new. Told so, Anthropic's tool runner sends everything."""
    if request.get("thread"):
        raise UnsupportedRequest(
            "conversations are not stored here: send the whole conversation in messages, without thread",
            "thread",
            code="thread_unsupported_request",
        )


def _refuse(request: JsonObject) -> None:
    for name, remedy in _REFUSED.items():
        if request.get(name):
            raise UnsupportedRequest(f"{name} is not supported: {remedy}", name)
    if request.get("n") not in (None, 1):
        raise UnsupportedRequest("n must be 1: a Message is one answer, so make n requests", "n")


def _max_tokens(request: JsonObject) -> int:
    value = request.get("max_tokens")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedRequest("max_tokens is required, a whole number of at least 1", "max_tokens")
    return value


def _stop(request: JsonObject) -> JsonObject:
    sequences = request.get("stop_sequences")
    if sequences is None:
        return {}
    if not isinstance(sequences, list) or not all(isinstance(item, str) for item in sequences):
        raise UnsupportedRequest("stop_sequences must be a list of strings", "stop_sequences")
    return {"stop": sequences} if sequences else {}


def _user(request: JsonObject) -> JsonObject:
    metadata = optional_object(request, "metadata")
    if metadata.get("user_id") is None:
        return {}
    return {"user": text(metadata, "user_id", "metadata")}


def _tools(request: JsonObject) -> JsonObject:
    if request.get("tools") is None:
        return {}
    tools = [_tool(tool, where) for tool, where in objects(request["tools"], "tools")]
    return {"tools": tools} if tools else {}


def _tool(tool: JsonObject, where: str) -> JsonObject:
    kind, schema = tool.get("type"), tool.get("input_schema")
    if kind is not None and kind != "custom":
        raise UnsupportedRequest(
            f"{where}: tools of type {kind!r} are built into Anthropic's models or servers; "
            "describe the tool with name, description and input_schema instead",
            f"{where}.type",
        )
    if not isinstance(schema, dict):
        raise UnsupportedRequest(f"{where}.input_schema must be an object", f"{where}.input_schema")
    function: JsonObject = {"name": text(tool, "name", where)}
    if tool.get("description") is not None:
        function["description"] = text(tool, "description", where)
    function["parameters"] = schema
    if isinstance(tool.get("strict"), bool):
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _tool_choice(request: JsonObject) -> JsonObject:
    """Without tools there is no choice to pass on, because servers refuse one then."""
    if request.get("tool_choice") is None:
        return {}
    asked = optional_object(request, "tool_choice")
    chosen: JsonObject = {"tool_choice": _choice(asked)}
    if not request.get("tools"):
        if chosen["tool_choice"] not in ("auto", "none"):
            raise UnsupportedRequest("tool_choice asks for a tool, but tools is empty", "tool_choice")
        return {}
    if isinstance(once := asked.get("disable_parallel_tool_use"), bool):
        chosen["parallel_tool_calls"] = not once
    return chosen


def _choice(asked: JsonObject) -> str | JsonObject:
    match asked.get("type"):
        case "auto" | "any" | "none" as kind:
            return _TOOL_CHOICES[kind]
        case "tool":
            return {"type": "function", "function": {"name": text(asked, "name", "tool_choice")}}
        case _:
            raise UnsupportedRequest(
                "tool_choice.type must be 'auto', 'any', 'tool' or 'none'", "tool_choice.type"
            )


def _thinking(request: JsonObject) -> JsonObject:
    if request.get("thinking") is None:
        return {}
    match optional_object(request, "thinking").get("type"):
        case "enabled" | "disabled" as kind:
            # Chat templates name the switch one way or the other; servers drop the name a template lacks.
            switch = {"enable_thinking": kind == "enabled", "thinking": kind == "enabled"}
            given = request.get("chat_template_kwargs")
            return {"chat_template_kwargs": switch | (given if isinstance(given, dict) else {})}
        case "adaptive" | "between_tools":
            return {}
        case _:
            raise UnsupportedRequest(
                "thinking.type must be 'enabled', 'disabled', 'adaptive' or 'between_tools'", "thinking.type"
            )


def _output(request: JsonObject) -> JsonObject:
    config = optional_object(request, "output_config")
    wanted: JsonObject = {}
    if (effort := config.get("effort")) is not None:
        wanted["reasoning_effort"] = _EFFORTS.get(effort, effort) if isinstance(effort, str) else effort
    if config.get("format") is not None:
        wanted["response_format"] = _response_format(config["format"], "output_config.format")
    elif request.get("output_format") is not None:
        wanted["response_format"] = _response_format(request["output_format"], "output_format")
    return wanted


def _response_format(asked: Any, where: str) -> JsonObject:
    match asked:
        case {"type": "json_schema", "schema": dict(schema)}:
            described = {"name": "answer", "schema": schema, "strict": True}
            return {"type": "json_schema", "json_schema": described}
        case _:
            raise UnsupportedRequest(f"{where} must have type 'json_schema' and a schema object", where)


def _stream_options(request: JsonObject) -> JsonObject:
    """The end of a Messages stream tells the usage, so the chat stream has to."""
    if request.get("stream") is not True:
        return {}
    given = request.get("stream_options")
    return {"stream_options": (given if isinstance(given, dict) else {}) | {"include_usage": True}}


def _continuation(chat: JsonObject) -> JsonObject:
    last = chat["messages"][-1]
    if last["role"] != "assistant" or not last["content"] or "tool_calls" in last:
        return {}
    return {"continue_final_message": True, "add_generation_prompt": False}


_OPTIONAL: tuple[Callable[[JsonObject], JsonObject], ...] = (
    _stop,
    _user,
    _tools,
    _tool_choice,
    _thinking,
    _output,
    _stream_options,
)
