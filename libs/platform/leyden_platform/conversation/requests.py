"""The parts of a recorded request: its conversation item by item, the tools it offers, its token limit.

An item is a chat message, an item of a Responses input or a turn of Messages; they tell themselves apart. A
conversation is read from its end, never as a whole, so that a rollout of many turns takes linear time.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from leyden_platform.conversation.content import items, mapping, shown, string
from leyden_platform.conversation.values import Result
from leyden_schemas import JsonObject

Item = Mapping[str, Any]
TAIL = 4_096
"""How many characters of a text prompt count as what the model was told last."""


def conversation_of(request: JsonObject) -> Sequence[Any]:
    """The items that a request holds; a text is one item of the user."""
    for name in ("messages", "input", "prompt"):
        value = request.get(name)
        if isinstance(value, str):
            return [{"role": "user", "content": value[-TAIL:]}]
        if isinstance(value, list):
            return value
    return []


def by_the_model(item: object) -> bool:
    """Whether the model said it. Responses has items of their own for calls and reasoning."""
    if not isinstance(item, dict):
        return False
    kind = string(item.get("type"))
    return item.get("role") == "assistant" or kind == "reasoning" or kind.endswith("_call")


def calls_in(item: Item) -> Iterator[str]:
    """The ids of the calls that an item of the model holds."""
    if "call_id" in item:
        yield string(item["call_id"])
    if mapping(item.get("function_call")):
        yield ""
    for call in items(item.get("tool_calls")):
        yield string(call.get("id"))
    for block in items(item.get("content")):
        if block.get("type") == "tool_use":
            yield string(block.get("id"))


def results_in(item: Item) -> Iterator[tuple[str, Result]]:
    """The tool results that an item holds, by the id of their call."""
    if item.get("role") == "tool":
        yield string(item.get("tool_call_id")), Result(shown(item.get("content")))
    elif item.get("role") == "function":
        yield "", Result(shown(item.get("content")))
    elif string(item.get("type")).endswith("_call_output"):
        yield string(item.get("call_id")), Result(shown(item.get("output")))
    elif item.get("role") == "user":
        for block in items(item.get("content")):
            if block.get("type") == "tool_result":
                failed = True if block.get("is_error") is True else None
                yield string(block.get("tool_use_id")), Result(shown(block.get("content")), failed)


def words_in(item: Item) -> str:
    """What the user says in an item, without the tool results in it."""
    if item.get("role") != "user":
        return ""
    content = item.get("content")
    if isinstance(content, list):
        return shown([part for part in content if mapping(part).get("type") != "tool_result"])
    return shown(content)


def told_in(item: object) -> str:
    """Everything an item tells the model, without the ids of calls."""
    if not isinstance(item, dict):
        return shown(item)
    results = "".join(f"result {result.text}\n" for _, result in results_in(item))
    if item.get("role") == "user" or results:
        return f"{results}user {words_in(item)}"
    return f"{item.get('role')} {shown(item.get('content'))}"


def tools_of(request: JsonObject) -> Mapping[str, Mapping[str, Any]] | None:
    """The parameter schemas of the tools on offer, by name; None when the request is not known."""
    if not request:
        return None
    found = {}
    for tool in chain(items(request.get("tools")), items(request.get("functions"))):
        declared = mapping(tool.get("function")) or mapping(tool.get("custom")) or tool
        schema = declared.get("parameters", declared.get("input_schema"))
        found[string(declared.get("name"))] = mapping(schema)
    return found


def limit_of(request: JsonObject) -> int | None:
    """How many tokens an answer may have; None when the request does not say."""
    names = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    values = (request.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)
