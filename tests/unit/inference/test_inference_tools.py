"""Tool calls in what a model says, however the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_inference.tools import ToolParser, parse_call

CALL = '<tool_call>\n{"name": "calculator", "arguments": {"a": 3, "op": "+", "b": 4}}\n</tool_call>'


def parsed(*parts: str) -> tuple[str, list[tuple[str, str]]]:
    """Content, and names with arguments."""
    parser = ToolParser()
    content, calls = "", []
    for step in [*(parser.push(part) for part in parts), parser.flush()]:
        content += step[0]
        calls += [(call.name, call.arguments) for call in step[1]]
    return content, calls


def test_a_call_becomes_a_name_and_json_arguments() -> None:
    assert parsed(CALL) == ("", [("calculator", '{"a": 3, "op": "+", "b": 4}')])


def test_text_before_and_between_calls_is_content_and_white_space_after_them_is_not() -> None:
    content, calls = parsed(f"Let me see. {CALL}\n{CALL} so\n")
    assert content == "Let me see. so\n"
    assert len(calls) == 2


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "calculator"}</tool_call>',
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "calculator", "arguments": {"a": 1',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        "a < b <tool",
        "</tool_call>",
    ],
)
def test_what_is_no_call_stays_content_as_it_is(text: str) -> None:
    assert parsed(text) == (text, [])


def test_a_complete_call_without_its_closing_tag_counts() -> None:
    assert parsed(CALL.removesuffix("</tool_call>"))[1] == [("calculator", '{"a": 3, "op": "+", "b": 4}')]


def test_arguments_keep_their_characters() -> None:
    call = parse_call('{"name": "say", "arguments": {"text": "é"}}')
    assert call is not None
    assert call.arguments == '{"text": "é"}'
    assert call.as_json()["function"] == {"name": "say", "arguments": '{"text": "é"}'}
    assert json.loads(call.arguments) == {"text": "é"}


PARTS = st.lists(st.sampled_from([CALL, "hm ", "\n", "<tool_call>", "</tool_call>", "<", "x"]), max_size=6)


@given(PARTS.map("".join), st.data())
def test_any_cut_gives_what_the_whole_gives(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parsed(*parts) == parsed(text)
