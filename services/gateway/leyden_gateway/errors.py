"""Every way a call can fail, as one small tree; each knows its status and says it in OpenAI's terms.

``reason`` is the machine-readable cause: OpenAI's ``code``, the metric label, and a record's ``untrainable``.
"""

import math
from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID

from leyden_schemas import JsonObject

COMPLETION_ID = "x-leyden-completion-id"
ROLLOUT_ID = "x-leyden-rollout-id"
"""The answer's header that names the record."""


class ApiError(Exception):
    """Base: an answer other than a completion. The text tells the caller what to do about it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    reason: ClassVar[str] = "internal_error"
    retry: ClassVar[bool | None] = None
    """Whether OpenAI's clients should try again; None leaves it to them."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        """``param`` is the place in the request that is wrong, ``code`` its protocol's name for what is."""
        super().__init__(message)
        self.param, self.code = param, code
        self.completion_id: UUID | None = None
        """The record of the refused call, if it has one and the answer does not name it otherwise."""

    def body(self) -> JsonObject:
        """The OpenAI error object."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.reason}}

    def headers(self) -> dict[str, str]:
        """What OpenAI's clients look at before they retry, and what a refusal is recorded as."""
        headers = {} if self.retry is None else {"x-should-retry": str(self.retry).lower()}
        return headers | ({COMPLETION_ID: str(self.completion_id)} if self.completion_id else {})


class MissingToken(ApiError):
    """No rollout token, and anonymous calls are not allowed."""

    status, type, reason = 401, "authentication_error", "missing_token"


class InvalidRolloutToken(ApiError):
    """A token that is forged, expired or not ours."""

    status, type, reason = 401, "authentication_error", "invalid_token"


class WrongRollout(ApiError):
    """A valid token used on another rollout's or attempt's path."""

    status, type, reason = 403, "permission_error", "wrong_rollout"


class FeedbackForbidden(ApiError):
    """A rollout token, which agents hold, cannot give feedback: they would reward themselves."""

    status, type, reason = 403, "permission_error", "feedback_forbidden"


class ScopeMissing(ApiError):
    """The API key is not for this."""

    status, type, reason = 403, "permission_error", "missing_scope"


class InvalidRequest(ApiError):
    """The request cannot be understood."""

    status, type, reason = 400, "invalid_request_error", "invalid_request"


class BodyTooLarge(ApiError):
    """The request is larger than the gateway, or the log, takes."""

    status, type, reason = 413, "invalid_request_error", "request_too_large"


class EncodingNotSupported(ApiError):
    """The request's body is compressed."""

    status, type, reason = 415, "invalid_request_error", "unsupported_encoding"

    def headers(self) -> dict[str, str]:
        """What is accepted (RFC 9110, 15.5.16)."""
        return {"accept-encoding": "identity", **super().headers()}


class BodyTimedOut(ApiError):
    """The caller stopped sending in the middle of its request."""

    status, type, reason = 408, "invalid_request_error", "request_timeout"


class ModelNotFound(ApiError):
    """No such policy, version or alias."""

    status, type, reason = 404, "invalid_request_error", "model_not_found"


class CompletionNotFound(ApiError):
    """Feedback names a completion that cannot be found, and nothing else."""

    status, type, reason = 404, "invalid_request_error", "completion_not_found"


class NoSuchRoute(ApiError):
    """A path the gateway does not serve."""

    status, type, reason = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(ApiError):
    """A known path with another method."""

    status, type, reason = 405, "invalid_request_error", "method_not_allowed"

    def __init__(self, where: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{where}: this path takes {' or '.join(allowed)}")
        self._allowed = allowed

    def headers(self) -> dict[str, str]:
        """What the path takes (RFC 9110, 15.5.6)."""
        return {"allow": ", ".join(self._allowed), **super().headers()}


class BudgetSpent(ApiError):
    """The attempt has made all the completions its task allows."""

    status, type, reason, retry = 429, "insufficient_quota", "max_completions_reached", False


class Overloaded(ApiError):
    """More calls are in flight than the gateway holds."""

    status, reason = 503, "overloaded"


class ModelUnavailable(ApiError):
    """The policy version exists, but no replica served it within the parking time."""

    status, reason = 503, "model_unavailable"


class UpstreamUnreachable(ApiError):
    """No replica took the call, after retries."""

    status, reason = 503, "upstream_unavailable"


class UpstreamTimedOut(ApiError):
    """The replica stalled, or the call outlived its limit."""

    status, reason = 504, "upstream_timeout"


class TruncatedStream(ApiError):
    """The replica closed in the middle of its answer."""

    status, reason = 502, "truncated_stream"


class MalformedAnswer(ApiError):
    """The replica's answer is not what the protocol says."""

    status, reason = 502, "malformed_answer"


class UpstreamFailed(ApiError):
    """The replica reported an error inside a stream it had begun."""

    status, reason = 502, "upstream_error"


class RecordingUnavailable(ApiError):
    """Kafka did not acknowledge the record, so the caller must not have the completion."""

    status, reason = 503, "recording_unavailable"


class RecordTooLarge(ApiError):
    """The record does not fit into a message of the log."""

    status, type, reason, retry = 413, "invalid_request_error", "record_too_large", False


class GatewayStopping(ApiError):
    """The gateway was shut down before the completion ended."""

    status, reason = 503, "gateway_stopping"


class TokensSpent(ApiError):
    """The attempt has used all the tokens that its rollout token allows."""

    status, type, reason, retry = 429, "insufficient_quota", "max_tokens_reached", False


class TooManyMessages(ApiError):
    """A conversation longer than the gateway takes."""

    status, type, reason = 400, "invalid_request_error", "too_many_messages"


class GatewayPaused(ApiError):
    """An operator paused the gateway, and it was not resumed within the parking time."""

    status, reason = 503, "gateway_paused"


class RateLimited(ApiError):
    """The tenant is beyond its rate, its tokens, or its calls at once; says when to come back."""

    status, type, reason = 429, "rate_limit_error", "rate_limited"

    def __init__(self, text: str, *, retry_after_s: float, headers: dict[str, str]) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self._headers = headers

    def headers(self) -> dict[str, str]:
        """``Retry-After`` in whole seconds, the same exactly for OpenAI's clients, and what is left."""
        return {
            "retry-after": str(max(1, math.ceil(self.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after_s * 1000))),
            **self._headers,
            **super().headers(),
        }


class ReplicasBusy(ApiError):
    """Every server that could take the call held all the calls it may, for the whole parking time."""

    status, reason = 503, "replicas_busy"


class ReplicasFailing(ApiError):
    """Every server that could take the call is left alone, because it kept failing or is being drained."""

    status, reason = 503, "replicas_failing"
