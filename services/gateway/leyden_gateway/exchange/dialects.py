"""The protocols that callers speak, and what each needs on its way to a replica and back.

Replicas are asked for chat completions, text completions or embeddings. Chat and text completions pass as
they are; Responses and Messages are translated (``leyden_platform.dialects``), so that token ids are captured
in one way for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any, Protocol
from uuid import UUID

from leyden_gateway.errors import ApiError, InvalidRequest
from leyden_gateway.exchange.fields import Fields, decoded, encode, of
from leyden_gateway.exchange.sse import encode_event
from leyden_platform.dialects import UnsupportedRequest, messages, responses
from leyden_schemas import JsonObject
from leyden_schemas import Protocol as Spoken


class Translator(Protocol):
    """One answer on its way back to a caller who did not ask for a chat completion."""

    def whole(self, answer: Fields) -> JsonObject:
        """A complete answer in the caller's protocol."""
        ...

    def chunk(self, chunk: Fields) -> bytes:
        """The events that a chunk means."""
        ...

    def end(self) -> bytes:
        """The events that close a stream, on which agents act."""
        ...

    def failed(self, error: JsonObject) -> bytes:
        """The events that end a stream that broke."""
        ...

    def response(self) -> JsonObject:
        """The answer as the caller has seen it so far."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """A protocol that callers speak."""

    protocol: Spoken
    conversation: str | None
    """The field of its requests that grows from turn to turn."""
    upstream_path: str
    operation: str | None = None
    """Named when the answer is no completion, so that there is nothing to capture."""
    to_chat: Callable[[JsonObject], JsonObject] | None = None
    translator: Callable[[JsonObject, UUID], Translator] | None = None
    told: Callable[[JsonObject], JsonObject] | None = None
    """What the caller is told of an answer that is no completion; unless set, all of it."""
    error_body: Callable[[int, str, str | None], JsonObject] | None = None
    foreign_error: Callable[[int, bytes], JsonObject] | None = None
    request_id: str = "x-request-id"
    """The header that its clients show as the id of a request."""

    def to_upstream(self, request: Fields) -> Fields:
        """The request a replica understands. Raises ``InvalidRequest``."""
        if self.to_chat is None:
            return request
        try:
            return of(self.to_chat(plain(request)))
        except UnsupportedRequest as error:
            raise InvalidRequest(error.message, param=error.param, code=error.code) from None

    def error(self, error: ApiError) -> bytes:
        """An error object of this protocol."""
        if self.error_body is None:
            return encode(error.body())
        return encode(self.error_body(error.status, str(error), error.code))

    def refusal(self, status: int, body: bytes) -> bytes:
        """A replica's error in this protocol; its bytes where it speaks the same."""
        return body if self.foreign_error is None else encode(self.foreign_error(status, body))


def plain(fields: Fields) -> JsonObject:
    """Raw members as Python values."""
    payload: JsonObject = decoded(encode(fields))
    return payload


class _Events:
    """Events of a translated stream as server-sent events."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def chunk(self, chunk: Fields) -> bytes:
        return _encoded(self._stream.chunk(plain(chunk)))

    def end(self) -> bytes:
        return _encoded(self._stream.end())

    def failed(self, error: JsonObject) -> bytes:
        return _encoded(self._stream.failed(error))


class ResponsesTranslator(_Events):
    """Answers as OpenAI's Responses."""

    def __init__(self, request: JsonObject, completion_id: UUID) -> None:
        self._request = request
        self._named: dict[str, Any] = {"response_id": f"resp_{completion_id.hex}", "created_at": int(time())}
        super().__init__(responses.ResponsesStream(request, **self._named))

    def whole(self, answer: Fields) -> JsonObject:
        """A complete answer."""
        return responses.from_chat(plain(answer), self._request, **self._named)

    def response(self) -> JsonObject:
        """As seen so far."""
        seen: JsonObject = self._stream.response()
        return seen


class MessagesTranslator(_Events):
    """Answers as Anthropic's Messages."""

    def __init__(self, request: JsonObject, completion_id: UUID) -> None:
        self._request, self._message_id = request, f"msg_{completion_id.hex}"
        super().__init__(messages.MessagesStream(request, message_id=self._message_id))

    def whole(self, answer: Fields) -> JsonObject:
        """A complete answer."""
        return messages.from_chat(plain(answer), self._request, message_id=self._message_id)

    def response(self) -> JsonObject:
        """As seen so far."""
        seen: JsonObject = self._stream.message()
        return seen


def _encoded(events: list[JsonObject]) -> bytes:
    return b"".join(encode_event(encode(event), name=str(event["type"])) for event in events)


CHAT = Dialect(Spoken.CHAT, "messages", "/v1/chat/completions")
COMPLETIONS = Dialect(Spoken.COMPLETIONS, "prompt", "/v1/completions")
EMBEDDINGS = Dialect(Spoken.CHAT, "input", "/v1/embeddings", operation="embeddings")
COUNT_TOKENS = Dialect(
    Spoken.MESSAGES,
    "messages",
    "/tokenize",
    operation="count_tokens",
    to_chat=messages.to_tokenize,
    told=messages.token_count,
    error_body=messages.error_body,
    foreign_error=messages.error_from_chat,
    request_id="request-id",
)
RESPONSES = Dialect(
    Spoken.RESPONSES,
    "input",
    "/v1/chat/completions",
    to_chat=responses.to_chat,
    translator=ResponsesTranslator,
)
MESSAGES = Dialect(
    Spoken.MESSAGES,
    "messages",
    "/v1/chat/completions",
    to_chat=messages.to_chat,
    translator=MessagesTranslator,
    error_body=messages.error_body,
    foreign_error=messages.error_from_chat,
    request_id="request-id",
)

ROUTES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
}
