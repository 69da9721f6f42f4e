"""Counting the tokens of a Messages request: asked of the replica, whose tokenizer and template decide."""

from leyden_platform.dialects.messages_request import to_chat
from leyden_schemas import JsonObject

_PROMPT = (
    "add_generation_prompt",
    "chat_template_kwargs",
    "continue_final_message",
    "messages",
    "model",
    "tools",
)
"""What of a chat completion request decides how its prompt reads."""


def to_tokenize(request: JsonObject) -> JsonObject:
    """The request of vLLM's ``/tokenize`` for the same prompt. Raises ``UnsupportedRequest``."""
    chat = to_chat({**request, "max_tokens": 1})
    return {name: chat[name] for name in _PROMPT if name in chat}


def token_count(answer: JsonObject) -> JsonObject:
    """What Anthropic's clients read of its answer. Raises ``ValueError`` when it counts nothing."""
    count = answer.get("count")
    if type(count) is not int or count < 0:
        raise ValueError("the replica's answer has no count of tokens")
    return {"input_tokens": count}
