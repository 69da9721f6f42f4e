"""Errors in the words of the Messages protocol."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.dialects.messages import MessagesStream, error_body, error_from_chat
from leyden_schemas import JsonObject


def error(kind: str, message: str) -> JsonObject:
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_each_status_has_its_type(status: int, kind: str) -> None:
    assert error_body(status, "no") == error(kind, "no")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "too long", "type": "BadRequestError", "param": null}}', "too long"),
        (b'{"object": "error", "message": "too long", "code": 400}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"detail": "too long"}', "too long"),
        (b'{"detail": [{"loc": ["n"]}]}', '{"detail": [{"loc": ["n"]}]}'),
        (b"upstream connect error\n", "upstream connect error"),
        (b"", "the upstream answered 400 Bad Request"),
        (b'{"error": {"message": ""}}', '{"error": {"message": ""}}'),
        (b"\xff\xfe", "��"),
        (b'{"error": {"message": "half \\ud83d"}}', "half ?"),
        (b"[" * 3000, "[" * 2000),
    ],
)
def test_what_an_upstream_said(body: bytes, message: str) -> None:
    assert error_from_chat(400, body) == error("invalid_request_error", message)


def test_a_status_without_a_name() -> None:
    assert error_from_chat(599, b" ") == error("api_error", "the upstream answered 599")


@given(st.integers(100, 999), st.binary(max_size=50))
def test_any_bytes_are_taken(status: int, body: bytes) -> None:
    said = error_from_chat(status, body)
    assert said["error"]["message"]
    json.dumps(said, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("given_error", "event"),
    [
        (error("overloaded_error", "busy"), error("overloaded_error", "busy")),
        (
            {"error": {"message": "stalled", "type": "server_error", "code": 504}},
            error("timeout_error", "stalled"),
        ),
        ({"error": {"message": "broke", "type": "server_error", "code": "x"}}, error("api_error", "broke")),
        ({"message": "broke", "type": "api_error"}, error("api_error", "broke")),
        ({}, error("api_error", "the answer broke off")),
    ],
)
def test_a_stream_that_broke(given_error: JsonObject, event: JsonObject) -> None:
    stream = MessagesStream({"model": "calculator"}, message_id="msg_1")
    stream.chunk({"choices": [{"index": 0, "delta": {"content": "he"}}]})
    assert stream.failed(given_error) == [event]
    assert stream.message()["content"] == [{"type": "text", "text": "he"}]
    assert stream.message()["stop_reason"] is None
