"""The tools of a Responses request, and how they may be chosen, as a chat completion has them."""

from typing import Any

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_platform.dialects.responses_checks import object_at, object_of, objects_at, place, text_of
from leyden_schemas import JsonObject

_OF_SERVERS = ("web_search", "file_search", "code_interpreter", "image_generation", "mcp", "tool_search")
"""Tools that OpenAI's servers run; types of later versions begin like these."""


def tools_of(request: JsonObject) -> JsonObject:
    """The chat request's ``tools``, ``tool_choice``, ``parallel_tool_calls``. Raises ``UnsupportedRequest``.

    Without tools there are none of the three, because replicas refuse the other two then.
    """
    tools = request.get("tools")
    functions = (
        [] if tools is None else [_function(tool, where) for tool, where in objects_at(tools, "tools")]
    )
    choice = request.get("tool_choice")
    if not functions:
        if choice not in (None, "auto", "none"):
            raise UnsupportedRequest("`tool_choice` asks for a tool, but `tools` is empty", "tool_choice")
        return {}
    parallel = request.get("parallel_tool_calls")
    return {
        "tools": functions,
        **_choice(choice, functions),
        **({} if parallel is None else {"parallel_tool_calls": parallel}),
    }


def _function(tool: JsonObject, where: str) -> JsonObject:
    kind = text_of(tool, "type", where)
    if kind != "function":
        raise UnsupportedRequest(
            f"`{where}` is a tool of type {kind!r}, which "
            + ("OpenAI's servers run themselves" if kind.startswith(_OF_SERVERS) else "replicas do not know")
            + ": give the agent a tool of type function and run it on the agent's side",
            place(where, "type"),
        )
    text_of(tool, "name", where)
    object_of(tool, "parameters", where)
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _choice(choice: Any, functions: list[JsonObject]) -> JsonObject:
    """``tool_choice``, and ``tools`` again where the choice narrows them."""
    if choice is None:
        return {}
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise UnsupportedRequest(
                "`tool_choice` has to be auto, none, required or an object", "tool_choice"
            )
        return {"tool_choice": choice}
    choice = object_at(choice, "tool_choice")
    match choice.get("type"):
        case "function":
            named = _named(choice, "tool_choice", functions)
            return {"tool_choice": {"type": "function", "function": {"name": named["function"]["name"]}}}
        case "allowed_tools":
            return _allowed(choice, functions)
        case other:
            raise UnsupportedRequest(
                f"`tool_choice` of type {other!r} is not supported: use auto, none, required, function or "
                "allowed_tools",
                "tool_choice.type",
            )


def _allowed(choice: JsonObject, functions: list[JsonObject]) -> JsonObject:
    """Replicas know no ``allowed_tools``; a model that sees only these tools can choose no other."""
    mode = text_of(choice, "mode", "tool_choice")
    if mode not in ("auto", "required"):
        raise UnsupportedRequest("`tool_choice.mode` has to be auto or required", "tool_choice.mode")
    allowed = objects_at(choice.get("tools"), "tool_choice.tools")
    tools = [_named(tool, where, functions) for tool, where in allowed]
    if not tools:
        raise UnsupportedRequest("`tool_choice.tools` allows none of the tools", "tool_choice.tools")
    return {"tools": tools, "tool_choice": mode}


def _named(choice: JsonObject, where: str, functions: list[JsonObject]) -> JsonObject:
    name = text_of(choice, "name", where)
    for function in functions:
        if function["function"]["name"] == name:
            return function
    raise UnsupportedRequest(f"`{where}.name` is {name!r}, which `tools` does not have", place(where, "name"))
