"""Feedback on production traffic, sent to the gateway by whoever heard it: a backend, a support tool."""

import os
import time
from typing import Any
from uuid import UUID, uuid4

import httpx

_TRIES = 3
_PAUSE_S = 0.5


class FeedbackFailed(RuntimeError):
    """The gateway could not be reached or refused; the text says why."""


def feedback(
    *,
    session: str | None = None,
    rollout_id: UUID | str | None = None,
    completion_id: UUID | str | None = None,
    thumb: str | None = None,
    score: float | None = None,
    correction: str | None = None,
    comment: str | None = None,
    name: str | None = None,
    value: float | None = None,
    finish: bool = False,
    outcome: str | None = None,
    output: Any = None,
    id: str | None = None,  # noqa: A002 - as the field is called
    url: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 15.0,
) -> dict[str, Any]:
    """Say what became of a session, a rollout or a completion; return once that is on the log.

    The fields are those of ``POST /v1/feedback``, see docs/gateway-feedback.md. ``url`` and ``api_key`` are
    ``LEYDEN_GATEWAY_URL`` and ``LEYDEN_API_KEY`` unless given. What failed is sent again; an ``id``, made up
    unless one is given, keeps it from counting twice. Raises ``FeedbackFailed``.
    """
    said = {
        "session": session,
        "rollout_id": None if rollout_id is None else str(rollout_id),
        "completion_id": None if completion_id is None else str(completion_id),
        "thumb": thumb,
        "score": score,
        "correction": correction,
        "comment": comment,
        "name": name,
        "value": value,
        "finish": finish or None,
        "outcome": outcome,
        "output": output,
        "id": id or uuid4().hex,
    }
    body = {field: told for field, told in said.items() if told is not None}
    return _send(_route(url), _key(api_key), body, timeout_s)


def _send(route: str, key: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S * 2**attempt)
        try:
            answer = httpx.post(
                route, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s
            )
        except httpx.HTTPError as error:
            problem = f"the gateway at {route} did not answer: {error}"
            continue
        except (TypeError, ValueError, httpx.InvalidURL) as error:
            raise FeedbackFailed(f"this cannot be sent to {route}: {error}") from None
        if answer.is_success:
            return _told(answer, route)
        problem = f"the gateway refused the feedback: {_reason(answer)}"
        if answer.status_code < 500 and answer.status_code != 429:
            break
    raise FeedbackFailed(problem)


def _told(answer: httpx.Response, route: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = answer.json()
    except ValueError:
        raise FeedbackFailed(f"what answered at {route} is no gateway: {answer.text[:200]}") from None
    return content


def _route(url: str | None) -> str:
    base = url or os.environ.get("LEYDEN_GATEWAY_URL", "")
    if not base:
        raise FeedbackFailed("say where the gateway is: url=…, or LEYDEN_GATEWAY_URL")
    return f"{base.rstrip('/').removesuffix('/v1')}/v1/feedback"


def _key(api_key: str | None) -> str:
    key = api_key or os.environ.get("LEYDEN_API_KEY", "")
    if not key:
        raise FeedbackFailed("give an API key of the gateway: api_key=…, or LEYDEN_API_KEY")
    return key


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}: {answer.text[:500]}"
