"""The Response object and its parts, as the openai SDK's types accept them: values in, JSON out."""

from dataclasses import dataclass, field
from typing import Any, Literal

from leyden_schemas import JsonObject

Status = Literal["in_progress", "completed", "incomplete", "failed"]

_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
)
_INCOMPLETE = {
    "length": {"reason": "max_output_tokens"},
    "content_filter": {"reason": "content_filter"},
    "abort": None,
    "error": None,
}
"""Finish reasons of an answer that is not whole, with the ``incomplete_details`` they become."""


@dataclass(frozen=True, slots=True)
class PartKind:
    """One kind of text: the item it is in, its field in a content part, and the prefix of its events."""

    type: str
    item: Literal["message", "reasoning"]
    field: str
    event: str


OUTPUT_TEXT = PartKind("output_text", "message", "text", "response.output_text")
REFUSAL = PartKind("refusal", "message", "refusal", "response.refusal")
REASONING_TEXT = PartKind("reasoning_text", "reasoning", "text", "response.reasoning_text")


@dataclass(slots=True)
class Part:
    """A piece of content, as far as it has arrived."""

    kind: PartKind
    pieces: list[str] = field(default_factory=list)
    logprobs: list[JsonObject] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def value(self) -> JsonObject:
        part: JsonObject = {"type": self.kind.type, self.kind.field: self.text}
        if self.kind is OUTPUT_TEXT:
            part |= {"annotations": [], "logprobs": list(self.logprobs)}
        return part


@dataclass(slots=True)
class TextItem:
    """A message or a reasoning item."""

    type: Literal["message", "reasoning"]
    id: str
    output_index: int
    parts: list[Part] = field(default_factory=list)

    def value(self, status: Status) -> JsonObject:
        own: JsonObject = {"role": "assistant"} if self.type == "message" else {"summary": []}
        content = [part.value() for part in self.parts]
        return {"id": self.id, "type": self.type, "status": status, **own, "content": content}


@dataclass(slots=True)
class CallItem:
    """A call of a function."""

    id: str
    output_index: int
    call_id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def value(self, status: Status) -> JsonObject:
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": "".join(self.arguments),
        }


def final_status(finish_reason: str | None) -> Status:
    """What a finished chat answer makes of the Response; reasons that are not known are normal ends."""
    return "incomplete" if finish_reason in _INCOMPLETE else "completed"


def incomplete_details(finish_reason: str | None) -> JsonObject | None:
    """Why a Response is incomplete, where the API has a word for it."""
    return _INCOMPLETE.get(finish_reason or "")


def echo(request: JsonObject) -> JsonObject:
    """The fields of a Response that repeat the request, with the API's defaults for what it left out.

    Nothing is ever stored or truncated here, whatever the request asked, and the Response says so.
    """
    return {
        **{name: request.get(name) for name in _ECHOED},
        "background": False,
        "metadata": request.get("metadata") or {},
        "parallel_tool_calls": request.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(request.get("reasoning") or {})},
        "store": False,
        "text": _text(request.get("text") or {}),
        "tool_choice": request.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in request.get("tools") or ()],
        "truncation": "disabled",
    }


def _text(text: JsonObject) -> JsonObject:
    return {**text, "format": text.get("format") or {"type": "text"}}


def _tool(tool: JsonObject) -> JsonObject:
    """Older clients' types require the two fields that newer ones made optional."""
    return {"parameters": None, "strict": None, **tool}


def usage_of(usage: Any) -> JsonObject | None:
    """A chat answer's usage in the words of the Responses API."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": _count(usage.get("prompt_tokens_details"), "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": _count(usage.get("completion_tokens_details"), "reasoning_tokens")
        },
        "total_tokens": _count(usage, "total_tokens") or prompt + completion,
    }


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) else 0


def logprobs_of(choice: JsonObject) -> list[JsonObject]:
    """The log-probabilities of a choice, whole or partial."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [{**_token(item), "top_logprobs": _tokens(item.get("top_logprobs"))} for item in _scored(content)]


def _tokens(items: Any) -> list[JsonObject]:
    return [_token(item) for item in _scored(items)]


def _scored(items: Any) -> list[JsonObject]:
    """Those of the items that are a token with its log-probability."""
    if not isinstance(items, list):
        return []
    return [
        item
        for item in items
        if isinstance(item, dict)
        and isinstance(item.get("token"), str)
        and isinstance(item.get("logprob"), int | float)
    ]


def _token(item: JsonObject) -> JsonObject:
    """In a Response, ``bytes`` is never null."""
    spelt = item.get("bytes")
    octets = spelt if isinstance(spelt, list) and all(isinstance(octet, int) for octet in spelt) else []
    return {"token": item["token"], "logprob": item["logprob"], "bytes": octets}


def told_error(error: JsonObject) -> JsonObject:
    """The ``code``, ``message`` and ``param`` of an OpenAI error object, bare or as the body of an answer."""
    inner = error.get("error")
    said = inner if isinstance(inner, dict) else error
    code, kind, param = said.get("code"), said.get("type"), said.get("param")
    return {
        "code": code if isinstance(code, str) else kind if isinstance(kind, str) else None,
        "message": str(said.get("message") or "the answer broke off"),
        "param": param if isinstance(param, str) else None,
    }


def response_error(told: JsonObject) -> JsonObject:
    """A Response's ``error``. Its codes are a closed list, so the actual one is kept as its type."""
    known = told["code"] in ("server_error", "rate_limit_exceeded", "invalid_prompt")
    return {**told, "code": told["code"] if known else "server_error", "type": told["code"]}
