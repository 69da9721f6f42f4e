"""From a captured answer to the facts on the log, and why a completion cannot be trained on.

A record is built as its fields, not as a ``CompletionRecorded``: request, answer and token ids are JSON text
already, and become part of the record's text without being decoded. The schema's reader is the test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from msgspec import Raw

from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.errors import ApiError
from leyden_gateway.exchange.capture import Capture, ChoiceCapture
from leyden_gateway.exchange.fields import Fields
from leyden_gateway.routing.choice import Choice, policy_name
from leyden_schemas import CompletionStatus, JsonObject, Protocol, cause_id

Record = dict[str, Any]
"""The fields of a ``CompletionRecorded``; values are plain, or raw JSON text."""

_EMPTY = Raw(b"[]")
_GIVEN_UP = ("abort", "error")
"""Finish reasons of vLLM and SGLang for what they stopped themselves: the agent went on from a part."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended: what the caller gets and, unless it is ``ok``, why."""

    status: CompletionStatus
    http_status: int
    error: str | None = None
    reason: str | None = None

    @classmethod
    def completed(cls) -> Self:
        """The caller gets its completion."""
        return cls(CompletionStatus.OK, 200)

    @classmethod
    def failed(cls, error: ApiError) -> Self:
        """The gateway answers with an error of its own."""
        return cls(CompletionStatus.ERROR, error.status, str(error), error.reason)

    @classmethod
    def refused(cls, http_status: int, text: str) -> Self:
        """The replica answered with an error, which the caller gets as it is."""
        return cls(CompletionStatus.ERROR, http_status, text, "upstream_error")

    @classmethod
    def cancelled(cls, why: str) -> Self:
        """The caller hung up (499, as nginx logs it)."""
        return cls(CompletionStatus.CANCELLED, 499, why, "cancelled")


@dataclass(slots=True)
class Call:
    """One call from its arrival on; the fields below ``started`` are filled in as they become known."""

    completion_id: UUID
    attribution: Attribution
    occurred_at: datetime
    started: float
    protocol: Protocol = Protocol.CHAT
    operation: str | None = None
    conversation: str | None = "messages"
    """The field of the request that grows from turn to turn."""
    request: Fields = field(default_factory=dict)
    response: JsonObject | None = None
    """The answer as the caller saw it, when it was translated."""
    sampling: JsonObject = field(default_factory=dict)
    choice: Choice | None = None
    queued_s: float = 0.0
    """Seconds that the call waited for a version, or for room on a server."""
    sent: float | None = None
    streamed: bool = False
    first_token_s: float | None = None
    client: str = ""
    user: str | None = None
    retry_of: UUID | None = None
    untrainable: str | None = None
    """Why nothing of this call can be trained on, however it ends."""
    completions: int = 1
    """How many it is charged to its attempt: one for each alternative, none for what is no completion."""
    trace: dict[str, str] = field(default_factory=dict)
    """W3C trace context for the replica and the log."""

    @property
    def policy_ref(self) -> str:
        """What was asked for: the token's or key's policy, or what the request's model means."""
        return self.attribution.policy

    @property
    def queue_s(self) -> float | None:
        """Seconds from arrival until the call was sent to a replica."""
        return None if self.sent is None else self.sent - self.started


def untrainable(
    ending: Ending, capture: Capture, choice: ChoiceCapture, version: int | None, trouble: str | None
) -> str | None:
    """Why this alternative cannot be trained on; None when it can. ``trouble`` is that of its logprobs."""
    if ending.reason:
        return ending.reason
    if version is None:
        return "unknown_version"
    if not choice.ids or not capture.prompt_of(choice):
        return "no_token_ids"
    if trouble:
        return trouble
    if choice.finish_reason in _GIVEN_UP:
        return "aborted"
    if _counted(capture) not in (None, sum(c.sampled for c in capture.choices.values())):
        return "token_count_mismatch"
    return None


def _counted(capture: Capture) -> int | None:
    count = (capture.usage or {}).get("completion_tokens")
    return count if type(count) is int else None


def records(call: Call, ending: Ending, capture: Capture, *, total_s: float) -> list[Record]:
    """One record for each alternative (``n``) of the call, at least one.

    The first has the completion id that the caller was told; the others' ids derive from it.
    """
    choices = [capture.choices[index] for index in sorted(capture.choices)] or [ChoiceCapture(0)]
    timings = {"queue_s": call.queue_s, "first_token_s": call.first_token_s, "total_s": total_s}
    return [_record(call, ending, capture, choice, timings, order) for order, choice in enumerate(choices)]


def _record(
    call: Call, ending: Ending, capture: Capture, choice: ChoiceCapture, timings: JsonObject, order: int
) -> Record:
    completion_id = cause_id("choice", call.completion_id, order) if order else call.completion_id
    attribution, chosen = call.attribution, call.choice
    version, trouble = chosen.version if chosen else None, choice.trouble()
    return {
        "type": "completion_recorded",
        "tenant": attribution.tenant,
        "run": attribution.run,
        "event_id": cause_id("completion_recorded", completion_id),
        "rollout_id": attribution.rollout_id,
        "attempt": attribution.attempt,
        "occurred_at": call.occurred_at,
        "completion_id": completion_id,
        "agent": attribution.agent,
        "protocol": call.protocol,
        "operation": call.operation,
        "mode": attribution.mode,
        "session": attribution.session,
        "user": call.user,
        "client": call.client,
        "retry_of": call.retry_of,
        "streamed": call.streamed,
        "status": ending.status,
        "http_status": ending.http_status,
        "error": ending.error,
        "untrainable": call.untrainable or untrainable(ending, capture, choice, version, trouble),
        "policy": chosen.policy if chosen else policy_name(call.policy_ref),
        "version": version,
        "replica": chosen.replica if chosen else "",
        "request": call.request,
        "response": capture.response(choice) if call.response is None else call.response,
        "prompt_token_ids": Raw(capture.prompt_of(choice) or b"[]"),
        "token_ids": Raw(choice.token_ids),
        "logprobs": [] if trouble else choice.logprobs,
        "finish_reason": choice.finish_reason,
        "sampling": call.sampling,
        "usage": _usage(capture, choice),
        "timings": timings,
    }


def _usage(capture: Capture, choice: ChoiceCapture) -> dict[str, int]:
    counts = capture.usage or {}
    sampled = choice.sampled
    if not sampled and len(capture.choices) <= 1:
        sampled = _count(counts, "completion_tokens")
    return {"prompt_tokens": capture.prompt_size_of(choice), "completion_tokens": sampled}


def _count(counts: Mapping[str, Any], name: str) -> int:
    count = counts.get(name)
    return count if type(count) is int else 0


def without_payload(record: Record, *, error: ApiError) -> Record:
    """The record with everything large left out, for a call whose full record does not fit the log."""
    return record | {
        "status": CompletionStatus.ERROR,
        "http_status": error.status,
        "error": str(error),
        "untrainable": error.reason,
        "base": None,
        "request": {},
        "response": None,
        "prompt_token_ids": _EMPTY,
        "token_ids": _EMPTY,
        "logprobs": _EMPTY,
    }
