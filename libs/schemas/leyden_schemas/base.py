"""What every message shares: immutability, a topic, a key and a tenant/run to belong to."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

JsonObject = dict[str, Any]


def _aware_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("timestamps carry a time zone, for example 2026-01-31T12:00:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is outside the calendar once it is in UTC") from None


Timestamp = Annotated[datetime, AfterValidator(_aware_utc)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
"""A short identifier that is safe in URLs, metric labels and Kafka keys."""

BASE_QUEUE = "default"
"""The queue of ``leyden.tasks.v1`` itself; ``leyden.tasks.v1.<queue>`` is another's."""
QUEUE_NAME = "[A-Za-z0-9._-]{1,200}"
"""A regular expression: what Kafka takes as the end of a topic's name."""


def writable(text: str) -> str:
    """The text with question marks for lone surrogates, which no message can hold: whatever an agent wrote
    as JSON or raised in its code may have them.
    """
    return text.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class Topic:
    """A Kafka topic of the product and how it is created."""

    name: str
    partitions: int
    compacted: bool = False
    retention_hours: int = 24 * 14


class Message(BaseModel):
    """One immutable value of a topic.

    Readers ignore fields they do not know, so adding an optional field is always compatible.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")

    topic: ClassVar[Topic]

    tenant: Name = "default"
    run: Name = Field(default="default", description="The experiment or stream this message belongs to.")

    def key(self) -> str:
        """The Kafka key: messages with equal keys keep their order."""
        raise NotImplementedError

    def to_json(self) -> bytes:
        """The message as UTF-8 JSON."""
        return self.model_dump_json().encode()
