"""From a captured answer to the facts on the log, and why a completion cannot be trained on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.errors import ApiError
from leyden_gateway.exchange.capture import Capture, ChoiceCapture
from leyden_gateway.routing.choice import Choice, policy_name
from leyden_schemas import (
    CompletionRecorded,
    CompletionStatus,
    JsonObject,
    Protocol,
    SamplingUsed,
    Timings,
    Usage,
    cause_id,
)


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
    request: JsonObject | None = None
    sampling: SamplingUsed | None = None
    choice: Choice | None = None
    sent: float | None = None
    streamed: bool = False
    first_token_s: float | None = None

    @property
    def policy_ref(self) -> str:
        """What was asked for: the token's policy, or the request's model when there is no token."""
        if self.attribution.claims:
            return self.attribution.claims.policy
        model = (self.request or {}).get("model")
        return model if isinstance(model, str) else ""


def untrainable(ending: Ending, capture: Capture, choice: ChoiceCapture, version: int | None) -> str | None:
    """Why this alternative cannot be trained on; None when it can."""
    if ending.reason:
        return ending.reason
    if version is None:
        return "unknown_version"
    if not choice.token_ids or not capture.prompt_token_ids:
        return "no_token_ids"
    if len(choice.logprobs) != len(choice.token_ids):
        return "logprobs_mismatch"
    if not finite(choice.logprobs):
        return "logprobs_not_finite"
    if _counted(capture) not in (None, sum(len(c.token_ids) for c in capture.choices.values())):
        return "token_count_mismatch"
    return None


def _counted(capture: Capture) -> int | None:
    count = (capture.usage or {}).get("completion_tokens")
    return count if type(count) is int else None


def records(call: Call, ending: Ending, capture: Capture, *, total_s: float) -> list[CompletionRecorded]:
    """One record for each alternative (``n``) of the call, at least one.

    The first has the completion id that the caller was told; the others' ids derive from it.
    """
    choices = [capture.choices[index] for index in sorted(capture.choices)] or [ChoiceCapture(0)]
    timings = Timings(first_token_s=call.first_token_s, total_s=total_s)
    return [_record(call, ending, capture, choice, timings, order) for order, choice in enumerate(choices)]


def _record(
    call: Call, ending: Ending, capture: Capture, choice: ChoiceCapture, timings: Timings, order: int
) -> CompletionRecorded:
    completion_id = cause_id("choice", call.completion_id, order) if order else call.completion_id
    version = call.choice.version if call.choice else None
    return CompletionRecorded.model_construct(
        tenant=call.attribution.tenant,
        run=call.attribution.run,
        event_id=cause_id("completion_recorded", completion_id),
        rollout_id=call.attribution.rollout_id,
        attempt=call.attribution.attempt,
        occurred_at=call.occurred_at,
        completion_id=completion_id,
        agent=call.attribution.agent,
        protocol=call.protocol,
        streamed=call.streamed,
        status=ending.status,
        http_status=ending.http_status,
        error=ending.error,
        untrainable=untrainable(ending, capture, choice, version),
        policy=call.choice.policy if call.choice else policy_name(call.policy_ref),
        version=version,
        replica=call.choice.replica if call.choice else "",
        request=call.request or {},
        response=capture.response(choice),
        prompt_token_ids=capture.prompt_token_ids,
        token_ids=choice.token_ids,
        logprobs=_aligned(choice),
        finish_reason=choice.finish_reason,
        sampling=call.sampling or SamplingUsed(),
        usage=_usage(capture, choice),
        timings=timings,
    )


def _aligned(choice: ChoiceCapture) -> list[float]:
    """One finite log-probability for each sampled token, or none at all."""
    fit = len(choice.logprobs) == len(choice.token_ids) and finite(choice.logprobs)
    return choice.logprobs if fit else []


def finite(values: list[Any]) -> bool:
    """Whether all are finite numbers: a sum is not if one of its terms is not."""
    try:
        return set(map(type, values)) <= {float, int} and math.isfinite(sum(values))
    except OverflowError:
        return False


def _usage(capture: Capture, choice: ChoiceCapture) -> Usage:
    counts = capture.usage or {}
    sampled = len(choice.token_ids)
    if not sampled and len(capture.choices) <= 1:
        sampled = _first_count([counts.get("completion_tokens")])
    return Usage(
        prompt_tokens=len(capture.prompt_token_ids) or _first_count([counts.get("prompt_tokens")]),
        completion_tokens=sampled,
    )


def _first_count(values: Iterable[object]) -> int:
    return next((value for value in values if type(value) is int), 0)


def without_payload(record: CompletionRecorded, *, error: ApiError) -> CompletionRecorded:
    """The record with everything large left out, for a call whose full record does not fit the log."""
    return record.model_copy(
        update={
            "status": CompletionStatus.ERROR,
            "http_status": error.status,
            "error": str(error),
            "untrainable": error.reason,
            "request": {},
            "response": None,
            "prompt_token_ids": [],
            "token_ids": [],
            "logprobs": [],
        }
    )
