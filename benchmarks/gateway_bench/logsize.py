"""How the bytes of a rollout's records compare with those of its unique tokens, and what they consist of."""

from collections.abc import Sequence

import cramjam
import msgspec

from gateway_bench.measure import Measurement
from gateway_bench.trajectory import Conversation
from leyden_platform.messaging import Record

_FIELDS_SHOWN = 6


def log_sizes(
    case: str, conversation: Conversation, rollout: Sequence[Record], once: Sequence[Record]
) -> list[Measurement]:
    """Bytes of a rollout's records, to those of the same tokens recorded once each; and where they go."""
    sizes = {
        "log_bytes": sum(map(_size, rollout)) / sum(map(_size, once)),
        "log_bytes_lz4": sum(map(_compressed, rollout)) / sum(map(_compressed, once)),
    }
    found = [Measurement.of("leyden", case, name, "x", [value]) for name, value in sizes.items()]
    per_token = sum(map(_size, rollout)) / conversation.unique_tokens
    found.append(Measurement.of("leyden", case, "bytes_per_unique_token", "bytes", [per_token]))
    for name, size in sorted(_fields(rollout).items(), key=lambda item: -item[1])[:_FIELDS_SHOWN]:
        found.append(Measurement.of("leyden", case, f"bytes of {name}", "kB", [size / 1e3]))
    return found


def _size(record: Record) -> int:
    return len(record.value or b"")


def _compressed(record: Record) -> int:
    return len(cramjam.lz4.compress(record.value or b""))


def _fields(records: Sequence[Record]) -> dict[str, int]:
    """Bytes of each top-level field of the records."""
    sizes: dict[str, int] = {}
    for record in records:
        for name, raw in msgspec.json.decode(record.value or b"{}", type=dict[str, msgspec.Raw]).items():
            sizes[name] = sizes.get(name, 0) + len(bytes(raw))
    return sizes
