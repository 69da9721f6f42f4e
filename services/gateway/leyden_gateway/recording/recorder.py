"""Putting a call's records on the log, or saying that it could not be done."""

import asyncio
from collections.abc import Sequence

import structlog

from leyden_gateway import metrics
from leyden_gateway.errors import ApiError, RecordingUnavailable, RecordTooLarge
from leyden_gateway.recording.record import without_payload
from leyden_platform.messaging import Publisher, PublishFailed, Rejected
from leyden_schemas import CompletionRecorded

log = structlog.get_logger(__name__)


class Recorder:
    """Publishes, and counts what was acknowledged and what was not."""

    def __init__(self, publisher: Publisher, *, timeout_s: float) -> None:
        self._publisher, self._timeout_s = publisher, timeout_s

    async def record(self, events: Sequence[CompletionRecorded]) -> None:
        """Return once Kafka has acknowledged all. Raises ``RecordingUnavailable`` or ``RecordTooLarge``.

        A record too large for the log is replaced by one without its payload, so that the call is not
        missing from it.
        """
        try:
            await self._publish(events)
        except Rejected as rejected:
            error = RecordTooLarge(str(rejected))
            self._count_failure(events, error)
            await self._publish_or_fail([without_payload(event, error=error) for event in events])
            raise error from None
        except (PublishFailed, TimeoutError) as error:
            raise self._unavailable(events, error) from None

    async def _publish_or_fail(self, events: Sequence[CompletionRecorded]) -> None:
        try:
            await self._publish(events)
        except (PublishFailed, Rejected, TimeoutError) as error:
            raise self._unavailable(events, error) from None

    async def _publish(self, events: Sequence[CompletionRecorded]) -> None:
        with metrics.RECORD_SECONDS.time():
            async with asyncio.timeout(self._timeout_s):
                await self._publisher.publish(*events)
        for event in events:
            metrics.RECORDED.labels(event.policy, event.status.value, event.untrainable or "").inc()
            metrics.TOKENS.labels(event.policy, "sampled").inc(event.usage.completion_tokens)
        metrics.TOKENS.labels(events[0].policy, "prompt").inc(events[0].usage.prompt_tokens)

    def _unavailable(self, events: Sequence[CompletionRecorded], error: Exception) -> RecordingUnavailable:
        why = str(error) or f"no acknowledgement within {self._timeout_s:g} s"
        failure = RecordingUnavailable(f"the completion could not be recorded and is withheld: {why}")
        self._count_failure(events, failure)
        return failure

    def _count_failure(self, events: Sequence[CompletionRecorded], error: ApiError) -> None:
        metrics.RECORD_FAILED.labels(error.reason).inc(len(events))
        log.warning(
            "completion_not_recorded",
            reason=error.reason,
            error=str(error),
            rollout_id=str(events[0].rollout_id),
            completion_id=str(events[0].completion_id),
        )
