"""OpenAI's Responses API (``POST /v1/responses``) for callers of a chat completion.

``to_chat`` translates the request; ``from_chat`` the whole answer, or ``ResponsesStream`` its chunks. Nothing
is stored between calls: each request brings its whole conversation. Source: the types of the openai package.
"""

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_platform.dialects.responses_request import to_chat, wants_logprobs
from leyden_platform.dialects.responses_stream import ResponsesStream
from leyden_schemas import JsonObject

__all__ = ["ResponsesStream", "UnsupportedRequest", "from_chat", "to_chat"]


def from_chat(answer: JsonObject, request: JsonObject, *, response_id: str, created_at: int) -> JsonObject:
    """The Response object that a whole chat answer amounts to.

    The same as a stream of one chunk, so that streamed or not a caller is told the same.
    """
    stream = ResponsesStream(request, response_id=response_id, created_at=created_at)
    narrow = wants_logprobs(request)
    choices = answer.get("choices")
    items = choices if isinstance(choices, list) else []
    deltas = [_as_delta(choice, narrow) for choice in items if isinstance(choice, dict)]
    stream.chunk({**answer, "choices": deltas})
    stream.end()
    return stream.response()


def _as_delta(choice: JsonObject, with_logprobs: bool) -> JsonObject:
    """A whole choice as a partial one, its log-probabilities narrowed from all tokens to the text's."""
    message, logprobs = _numbered(choice.get("message")), choice.get("logprobs")
    if not with_logprobs or not isinstance(message, dict) or not isinstance(logprobs, dict):
        return {**choice, "delta": message}
    content = _spelling(logprobs.get("content"), message.get("content"))
    return {**choice, "delta": message, "logprobs": {"content": content}}


def _numbered(message: object) -> object:
    """A whole message's calls told apart by their place: servers may give several the same id."""
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(calls, list):
        return message
    numbered = [{**call, "index": at} for at, call in enumerate(calls) if isinstance(call, dict)]
    return {**message, "tool_calls": numbered}


def _spelling(tokens: object, text: object) -> object:
    """The run of tokens that spells the text; all of them where none does, as with split characters."""
    if not isinstance(tokens, list) or not isinstance(text, str):
        return tokens
    starts, spelt = [], ""
    for item in tokens:
        starts.append(len(spelt))
        spelt += str(item.get("token", "")) if isinstance(item, dict) else ""
    begin = spelt.rfind(text)
    if begin < 0:
        return tokens
    return [item for item, start in zip(tokens, starts, strict=True) if begin <= start < begin + len(text)]
