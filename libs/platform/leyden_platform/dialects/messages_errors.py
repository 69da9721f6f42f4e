"""Errors in the words of the Messages protocol."""

import json
from http import HTTPStatus
from typing import Any

from leyden_schemas import JsonObject

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_KNOWN = frozenset(_TYPES.values()) | {"invalid_request_error", "api_error"}
_LONGEST = 2000
"""Characters of an unreadable error body that are passed on."""


def error_body(status: int, message: str, code: str | None = None) -> JsonObject:
    """The body of an answer with this status. ``code`` names the cause to clients that act on it."""
    body = _error(error_type(status), message)
    if code is not None:
        body["error"]["details"] = {"error_code": code}
    return body


def error_type(status: int) -> str:
    """The protocol's name for what a status means; other 4xx are invalid requests, the rest API errors."""
    return _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_from_chat(status: int, body: bytes) -> JsonObject:
    """What a server that speaks OpenAI's protocol said with this status. Total: ``body`` may be any bytes."""
    written = body.decode("utf-8", "replace")
    try:
        message = _message(json.loads(written))
    except (ValueError, RecursionError):
        message = None
    return error_body(status, _encodable(message or written.strip()[:_LONGEST] or _phrase(status)))


def stream_error(error: JsonObject) -> JsonObject:
    """The event that ends a broken stream, from an error body or error object of either protocol."""
    inner = error.get("error")
    inner = inner if isinstance(inner, dict) else error
    kind, code = inner.get("type"), inner.get("code")
    if not isinstance(kind, str) or kind not in _KNOWN:
        kind = error_type(code) if isinstance(code, int) else "api_error"
    return _error(kind, _encodable(_message(error) or "the answer broke off"))


def _error(kind: str, message: str) -> JsonObject:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _message(body: Any) -> str | None:
    """The message of OpenAI's ``{"error": {"message"}}`` and of the simpler forms that servers use."""
    match body:
        case {"error": {"message": str(message)}}:
            return message
        case {"error": str(message)} | {"message": str(message)} | {"detail": str(message)}:
            return message
        case _:
            return None


def _phrase(status: int) -> str:
    try:
        return f"the upstream answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the upstream answered {status}"


def _encodable(message: str) -> str:
    return message.encode("utf-8", "replace").decode()
