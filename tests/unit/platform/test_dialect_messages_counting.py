"""Counting tokens: what decides how a prompt reads, and nothing else, is asked of the replica."""

import pytest

from leyden_platform.dialects import UnsupportedRequest
from leyden_platform.dialects.messages import to_chat, to_tokenize, token_count
from leyden_schemas import JsonObject

HELLO: JsonObject = {"model": "calculator", "messages": [{"role": "user", "content": "hello"}]}


def test_the_prompt_is_that_of_the_completion() -> None:
    asked = {
        **HELLO,
        "system": "Be brief.",
        "tools": [{"name": "add", "input_schema": {"type": "object"}}],
        "thinking": {"type": "disabled"},
        "temperature": 0.5,
        "stream": True,
    }
    counted, completed = to_tokenize(asked), to_chat({**asked, "max_tokens": 64})
    assert counted.keys() == {"model", "messages", "tools", "chat_template_kwargs"}
    assert counted.items() <= completed.items()


def test_a_turn_to_be_continued_is_counted_as_it_will_be() -> None:
    begun = {**HELLO, "messages": [*HELLO["messages"], {"role": "assistant", "content": "The answer"}]}
    assert to_tokenize(begun)["continue_final_message"] is True


def test_what_is_no_conversation_is_refused() -> None:
    with pytest.raises(UnsupportedRequest, match="messages"):
        to_tokenize({"model": "calculator"})


@pytest.mark.parametrize("answer", [{}, {"count": "4"}, {"count": True}, {"count": -1}, {"count": None}])
def test_an_answer_without_a_count_is_none(answer: JsonObject) -> None:
    assert token_count({"count": 4, "tokens": [1, 2, 3, 4]}) == {"input_tokens": 4}
    with pytest.raises(ValueError, match="no count of tokens"):
        token_count(answer)
