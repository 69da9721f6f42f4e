"""What a refused message becomes."""

from base64 import b64encode
from datetime import UTC, datetime
from itertools import islice

from leyden_platform.messaging.record import Record
from leyden_schemas import DeadLetter, cause_id

MAX_VALUE_BYTES = 512 * 1024
_MAX_HEADER = 2_000
_MAX_HEADERS = 100


def dead_letter(record: Record, *, consumer: str, reason: str, error: Exception, attempts: int) -> DeadLetter:
    """The dead letter of a record. Its id derives from where the record lies, so a repeat is recognised.

    Values beyond ``MAX_VALUE_BYTES`` and headers beyond a hundred are cut; all lies at the source offset.
    """
    value = record.value or b""
    kept = islice(((name[:_MAX_HEADER], text) for name, text in record.headers.items()), _MAX_HEADERS)
    return DeadLetter(
        dead_letter_id=cause_id("dead_letter", consumer, record.where),
        source_topic=record.partition.topic,
        source_partition=record.partition.number,
        source_offset=record.offset,
        source_key=(record.key or b"").decode("utf-8", "replace")[:_MAX_HEADER],
        source_headers={name: text[:_MAX_HEADER] for name, text in kept},
        value=_base64(value[:MAX_VALUE_BYTES]),
        size=len(value),
        truncated=len(value) > MAX_VALUE_BYTES,
        consumer=consumer,
        reason=reason,
        error=f"{type(error).__name__}: {error}"[:_MAX_HEADER],
        attempts=attempts,
        failed_at=datetime.now(UTC),
    )


def _base64(value: bytes) -> bytes:
    """pydantic's Base64Bytes decodes on validation, so construction takes the encoded form."""
    return b64encode(value)
