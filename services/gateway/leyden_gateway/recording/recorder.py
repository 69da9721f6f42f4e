"""Putting a call's records on the log, or saying that it could not be done."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from time import perf_counter

import structlog
from msgspec import Raw

from leyden_gateway import metrics
from leyden_gateway.errors import ApiError, RecordingUnavailable, RecordTooLarge
from leyden_gateway.exchange.fields import encode
from leyden_gateway.recording.delta import Conversations
from leyden_gateway.recording.record import Call, Record, without_payload
from leyden_gateway.recording.redaction import Redaction
from leyden_gateway.recording.spool import Spool, may_spool
from leyden_platform.messaging import Publisher, PublishFailed, Rejected
from leyden_schemas import Topics

log = structlog.get_logger(__name__)

Headers = Sequence[tuple[str, bytes]]

_STATIC_HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_type", b"dev.leyden.completion_recorded"),
    ("ce_source", b"/leyden/gateway"),
    ("content-type", b"application/json"),
]


class Recorder:
    """Publishes, and counts what was acknowledged and what was not."""

    def __init__(
        self,
        publisher: Publisher,
        conversations: Conversations,
        redaction: Redaction | None,
        spool: Spool | None,
    ) -> None:
        self._publisher, self._conversations, self._redaction = publisher, conversations, redaction
        self._spool = spool

    async def record(self, call: Call, records: Sequence[Record]) -> None:
        """Return once Kafka has acknowledged all, or the spool has them.

        Raises ``RecordingUnavailable`` or ``RecordTooLarge``.
        A record too large for the log is replaced by one without its payload, so that the call is not
        missing from it.
        """
        started = perf_counter()
        if self._redaction is not None:
            records = await asyncio.gather(*map(self._redaction.apply, records))
        try:
            await self._publish_all(call, records)
        except Rejected as rejected:
            error = RecordTooLarge(str(rejected))
            self._count_failure(call, len(records), error)
            await self._publish_or_fail(call, [without_payload(record, error=error) for record in records])
            raise error from None
        except PublishFailed as error:
            raise self._unavailable(call, len(records), error) from None
        metrics.RECORD_SECONDS.observe(perf_counter() - started)

    async def _publish_or_fail(self, call: Call, records: Sequence[Record]) -> None:
        try:
            await self._publish_all(call, records)
        except (PublishFailed, Rejected) as error:
            raise self._unavailable(call, len(records), error) from None

    async def _publish_all(self, call: Call, records: Sequence[Record]) -> None:
        """The first alternative, then the others, which lean on it."""
        await self._publish(call, records[0])
        if len(records) > 1:
            done = await asyncio.gather(
                *(self._publish(call, record) for record in records[1:]), return_exceptions=True
            )
            for failure in done:
                if failure is not None:
                    raise failure

    async def _publish(self, call: Call, record: Record) -> None:
        attempt = (record["rollout_id"], record["attempt"])
        shrunk = self._conversations.shrink(
            attempt, bytes(record["prompt_token_ids"]), record["request"], call.conversation
        )
        if shrunk.base is not None:
            prompt_ids = Raw(shrunk.prompt_ids)
            record = record | {"base": shrunk.base, "request": shrunk.request, "prompt_token_ids": prompt_ids}
        value = encode(record)
        key = str(record["rollout_id"]).encode()
        spooled = await self._put(call, key, value, _headers(call, record))
        completion_id = record["completion_id"]
        self._conversations.remember(shrunk, completion_id, bytes(record["token_ids"]))
        first = completion_id == call.completion_id
        metrics.count_recorded(record, len(value), prompt=first, spooled=spooled)

    async def _put(self, call: Call, key: bytes, value: bytes, headers: Headers) -> bool:
        """On the log or, for production traffic and while Kafka is away, on disk; whether it was on disk."""
        spool = self._spool if may_spool(call.attribution.mode) else None
        if spool is not None and spool.wants(key):
            await spool.put(Topics.EVENTS.name, key, value, headers)
            return True
        try:
            await self._publisher.publish_encoded(Topics.EVENTS.name, key, value, headers)
        except PublishFailed:
            if spool is None:
                raise
            await spool.put(Topics.EVENTS.name, key, value, headers)
            return True
        return False

    def _unavailable(self, call: Call, count: int, error: Exception) -> RecordingUnavailable:
        failure = RecordingUnavailable(f"the completion could not be recorded and is withheld: {error}")
        self._count_failure(call, count, failure)
        return failure

    def _count_failure(self, call: Call, count: int, error: ApiError) -> None:
        metrics.RECORD_FAILED.labels(error.reason).inc(count)
        log.warning(
            "completion_not_recorded",
            reason=error.reason,
            error=str(error),
            rollout_id=str(call.attribution.rollout_id),
            completion_id=str(call.completion_id),
        )


def _headers(call: Call, record: Record) -> list[tuple[str, bytes]]:
    """CloudEvents attributes (binary mode) and the call's trace context."""
    own = [
        ("ce_id", str(record["event_id"]).encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        *((name, text.encode()) for name, text in call.trace.items()),
    ]
    return _STATIC_HEADERS + own
