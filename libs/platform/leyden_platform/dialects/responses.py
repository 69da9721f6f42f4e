"""OpenAI's Responses API (``POST /v1/responses``) for callers of a chat completion.

``to_chat`` translates the request; ``from_chat`` the whole answer, or ``ResponsesStream`` its chunks. Nothing
is stored between calls: each request brings its whole conversation. Source: the types of the openai package.
"""

from leyden_platform.dialects.errors import UnsupportedRequest
from leyden_platform.dialects.responses_request import to_chat
from leyden_platform.dialects.responses_stream import ResponsesStream
from leyden_schemas import JsonObject

__all__ = ["ResponsesStream", "UnsupportedRequest", "from_chat", "to_chat"]


def from_chat(answer: JsonObject, request: JsonObject, *, response_id: str, created_at: int) -> JsonObject:
    """The Response object that a whole chat answer amounts to.

    The same as a stream of one chunk, so that streamed or not a caller is told the same.
    """
    stream = ResponsesStream(request, response_id=response_id, created_at=created_at)
    stream.chunk(_as_chunk(answer))
    stream.end()
    return stream.response()


def _as_chunk(answer: JsonObject) -> JsonObject:
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return answer
    return {**answer, "choices": [_as_delta(choice) for choice in choices if isinstance(choice, dict)]}


def _as_delta(choice: JsonObject) -> JsonObject:
    """A whole choice as a partial one, its log-probabilities narrowed from all tokens to the text's."""
    message, logprobs = choice.get("message"), choice.get("logprobs")
    if not isinstance(message, dict) or not isinstance(logprobs, dict):
        return {**choice, "delta": message}
    content = _spelling(logprobs.get("content"), message.get("content"))
    return {**choice, "delta": message, "logprobs": {"content": content}}


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
