"""Values that pass through the seam."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from leyden_schemas import decode


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """One message as it lies in the log. Offsets are positions within its partition."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)
    timestamp_ms: int = 0

    @property
    def where(self) -> str:
        """``topic[partition]@offset``, for logs and for ids derived from a position."""
        return f"{self.partition.topic}[{self.partition.number}]@{self.offset}"

    def message(self) -> Any:
        """The decoded message. Raises ``MalformedMessage``."""
        return decode(self.partition.topic, self.value)
