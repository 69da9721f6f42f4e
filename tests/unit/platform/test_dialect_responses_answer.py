"""A whole chat answer becomes the Response that the openai package's types accept."""

from typing import Any

import pytest
from openai.types.responses import Response

from leyden_platform.dialects.responses import from_chat
from leyden_schemas import JsonObject

CLOCK = {"type": "function", "name": "clock", "parameters": {"type": "object", "properties": {}}}
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def answer(message: JsonObject, finish_reason: Any = "stop", **choice: Any) -> JsonObject:
    chosen = {
        "index": 0,
        "message": {"role": "assistant", **message},
        "finish_reason": finish_reason,
        **choice,
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 5,
        "model": "policy@3",
        "choices": [chosen],
        "usage": USAGE,
    }


def response(chat: JsonObject, **request: Any) -> JsonObject:
    """The Response to ``chat``, accepted by the package's types."""
    asked = {"model": "policy", "input": "hi", **request}
    found = from_chat(chat, asked, response_id="resp_77", created_at=1700000000)
    Response.model_validate(found)
    return found


def chat_call(call_id: Any, name: str = "clock", arguments: str = "{}") -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def logprob(token: str, value: float, *top: JsonObject) -> JsonObject:
    return {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": list(top)}


def test_calls_of_one_id_stay_apart() -> None:
    calls = [chat_call("call_0", "clock", '{"a":1}'), chat_call("call_0", "bell", '{"b":2}')]
    output = response(answer({"content": None, "tool_calls": calls}, "tool_calls"))["output"]
    assert [(item["name"], item["arguments"]) for item in output] == [
        ("clock", '{"a":1}'),
        ("bell", '{"b":2}'),
    ]
    assert len({item["id"] for item in output}) == 2


def test_a_text() -> None:
    assert response(answer({"content": "Hello"})) == {
        "id": "resp_77",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "policy@3",
        "output": [
            {
                "id": "msg_77_0",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
            }
        ],
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 16,
        },
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "service_tier": None,
        "temperature": None,
        "top_logprobs": None,
        "top_p": None,
        "user": None,
        "background": False,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
    }


def test_reasoning_text_and_calls_in_this_order() -> None:
    message = {
        "reasoning": "Two clocks.",
        "content": "Looking.",
        "tool_calls": [chat_call("call_a", arguments='{"zone": 1}'), chat_call("call_b")],
    }
    found = response(answer(message, "tool_calls"), tools=[CLOCK])
    assert found["status"] == "completed"
    assert found["output"] == [
        {
            "id": "rs_77_0",
            "type": "reasoning",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Two clocks."}],
        },
        {
            "id": "msg_77_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Looking.", "annotations": [], "logprobs": []}],
        },
        function_call(2, "call_a", '{"zone": 1}'),
        function_call(3, "call_b", "{}"),
    ]


def function_call(position: int, call_id: str, arguments: str) -> JsonObject:
    return {
        "id": f"fc_77_{position}",
        "type": "function_call",
        "status": "completed",
        "call_id": call_id,
        "name": "clock",
        "arguments": arguments,
    }


def test_a_call_without_an_id_gets_one_of_the_response() -> None:
    calls = [chat_call(None), chat_call("")]
    found = response(answer({"content": None, "tool_calls": calls}, "tool_calls"))
    assert [item["call_id"] for item in found["output"]] == ["call_77_0", "call_77_1"]


def test_reasoning_under_both_names_is_told_once() -> None:
    message = {"content": "4", "reasoning": "2+2", "reasoning_content": "2+2"}
    assert response(answer(message))["output"][0]["content"] == [{"type": "reasoning_text", "text": "2+2"}]
    older = {"content": "4", "reasoning_content": "2+2"}
    assert response(answer(older))["output"] == response(answer(message))["output"]


def test_a_refusal() -> None:
    (item,) = response(answer({"content": None, "refusal": "No."}))["output"]
    assert item["content"] == [{"type": "refusal", "refusal": "No."}]


@pytest.mark.parametrize("content", [None, ""])
def test_an_answer_of_nothing_is_an_empty_message(content: str | None) -> None:
    (item,) = response(answer({"content": content}))["output"]
    assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


@pytest.mark.parametrize(
    ("finish_reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("something_new", "completed", None),
        (None, "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
        ("abort", "incomplete", None),
    ],
)
def test_why_it_ended(finish_reason: str | None, status: str, details: JsonObject | None) -> None:
    found = response(answer({"content": "Hel"}, finish_reason))
    assert (found["status"], found["incomplete_details"]) == (status, details)
    assert found["output"][0]["status"] == status


def test_only_the_last_item_is_cut_off() -> None:
    message = {"content": "Looking.", "tool_calls": [chat_call("a"), chat_call("b", arguments='{"zo')]}
    found = response(answer(message, "length"))
    assert [item["status"] for item in found["output"]] == ["completed", "completed", "incomplete"]


def test_what_the_request_said_is_repeated() -> None:
    shape = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    asked = {
        "instructions": "Be brief.",
        "temperature": 0.2,
        "top_p": 0.9,
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "user": "u",
        "service_tier": "auto",
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "name": "clock"},
    }
    found = response(
        answer({"content": "{}"}),
        tools=[CLOCK],
        text={"format": shape, "verbosity": "low"},
        reasoning={"effort": "low"},
        store=True,
        truncation="auto",
        **asked,
    )
    assert {name: found[name] for name in asked} == asked
    assert found["tools"] == [{**CLOCK, "strict": None}]
    assert found["text"] == {"format": shape, "verbosity": "low"}
    assert found["reasoning"] == {"effort": "low", "summary": None}
    assert (found["store"], found["truncation"]) == (False, "disabled")


def test_usage_without_details_and_no_usage() -> None:
    bare = {**answer({"content": "x"}), "usage": {"prompt_tokens": 2, "completion_tokens": 3}}
    assert response(bare)["usage"] == {
        "input_tokens": 2,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }
    assert response({**bare, "usage": None})["usage"] is None


def test_logprobs_are_those_of_the_text() -> None:
    tokens = [
        logprob("think", -9.0),
        logprob("Hel", -0.5, logprob("Hel", -0.5)),
        {"token": "lo", "logprob": -0.25, "bytes": None},
        logprob("<end>", -0.1),
    ]
    chat = answer({"content": "Hello", "reasoning": "think"}, logprobs={"content": tokens})
    asked = response(chat, include=["message.output_text.logprobs"])
    best = {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]}
    assert asked["output"][1]["content"][0]["logprobs"] == [
        {**best, "top_logprobs": [best]},
        {"token": "lo", "logprob": -0.25, "bytes": [], "top_logprobs": []},
    ]
    assert response(chat)["output"][1]["content"][0]["logprobs"] == []


def test_logprobs_that_do_not_spell_the_text_are_all_told() -> None:
    halves = [logprob("�", -0.5), logprob("�", -0.25)]
    chat = answer({"content": "é"}, logprobs={"content": halves})
    (item,) = response(chat, include=["message.output_text.logprobs"])["output"]
    assert [told["logprob"] for told in item["content"][0]["logprobs"]] == [-0.5, -0.25]


def test_other_alternatives_are_not_told() -> None:
    chat = answer({"content": "first"})
    chat["choices"].insert(0, {"index": 1, "message": {"content": "second"}, "finish_reason": "length"})
    found = response(chat)
    assert found["status"] == "completed"
    assert [part["text"] for part in found["output"][0]["content"]] == ["first"]
