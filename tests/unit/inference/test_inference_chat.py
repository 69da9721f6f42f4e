"""Prompts are those that transformers renders from the same folder."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from leyden_inference.chat import ChatTemplate, chat_template, normalise
from leyden_inference.errors import RequestRefused, UnsupportedModel
from leyden_inference.text import Tokenizer

SEED = Path(__file__).parents[3] / "examples" / "calculator" / "seed"
TOOL = {
    "type": "function",
    "function": {"name": "calculator", "description": "Adds <é>.", "parameters": {"type": "object"}},
}
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "calculator", "arguments": '{"a": 3, "op": "+", "b": 4}'},
}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Use the calculator."},
    {"role": "user", "content": "3 + 4 * 5"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "7"},
]


@pytest.mark.parametrize("length", [2, 3, 4])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_ids_equal_transformers(length: int, tools: Any) -> None:
    tokenizer = Tokenizer(SEED)
    template = chat_template(SEED, tokenizer)
    assert template is not None
    theirs = AutoTokenizer.from_pretrained(SEED)
    messages = normalise(TALK[:length])
    text = template.render(messages, tools)
    expected = theirs.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
    assert text == expected
    assert tokenizer.encode(text) == theirs.encode(expected, add_special_tokens=False)


def test_arguments_become_objects_unless_they_are_no_json() -> None:
    broken = {"type": "function", "function": {"name": "f", "arguments": "{oops"}}
    empty = {"type": "function", "function": {"name": "f", "arguments": ""}}
    message = {"role": "assistant", "tool_calls": [CALL, broken, empty]}
    calls = normalise([message])[0]["tool_calls"]
    assert calls[0]["function"]["arguments"] == {"a": 3, "op": "+", "b": 4}
    assert calls[1]["function"]["arguments"] == "{oops"
    assert calls[2]["function"]["arguments"] == {}
    assert CALL["function"]["arguments"] == '{"a": 3, "op": "+", "b": 4}', "the request is left as it came"


def test_text_parts_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert normalise([{"role": "user", "content": parts}])[0]["content"] == "one\ntwo"
    assert normalise([{"role": "user", "content": None}])[0]["content"] == ""
    with pytest.raises(RequestRefused, match="image_url"):
        normalise([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
    with pytest.raises(RequestRefused, match="function"):
        normalise([{"role": "assistant", "tool_calls": ["what"]}])


def test_a_template_may_refuse_and_use_what_transformers_offers() -> None:
    template = ChatTemplate(
        "{% if messages|length > 1 %}{{ raise_exception('one message only') }}{% endif %}"
        "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content | tojson }}{% endgeneration %}"
        "{% break %}{% endfor %}{{ strftime_now('%Y') | length }}",
        {"bos_token": "<s>"},
    )
    assert template.render([{"role": "user", "content": "é<"}], None) == '<s>"é<"4'
    with pytest.raises(RequestRefused, match="one message only"):
        template.render([{"role": "user"}, {"role": "user"}], None)


def test_a_template_cannot_reach_outside_its_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(RequestRefused):
        template.render([], None)


def test_a_template_that_does_not_compile_is_refused_at_load() -> None:
    with pytest.raises(UnsupportedModel, match="does not compile"):
        ChatTemplate("{% if %}", {})
