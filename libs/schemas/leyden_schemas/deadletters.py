"""A message that could not be processed, kept whole so that it can be mended and sent again."""

from typing import ClassVar
from uuid import UUID

from pydantic import Base64Bytes, ConfigDict, Field

from leyden_schemas.base import Message, Timestamp, Topic
from leyden_schemas.topics import Topics


class DeadLetter(Message):
    """The original bytes and headers, where they came from, and why they were refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    topic: ClassVar[Topic] = Topics.DEADLETTERS

    dead_letter_id: UUID
    source_topic: str
    source_partition: int
    source_offset: int
    source_key: str = ""
    source_headers: dict[str, str] = Field(default_factory=dict)
    value: Base64Bytes = Field(description="The original bytes, or their beginning when truncated.")
    size: int = Field(description="Length of the original value in bytes.")
    truncated: bool = Field(default=False, description="The rest lies at the source offset.")
    consumer: str
    reason: str = Field(description="Short machine-readable cause, for example malformed or failed.")
    error: str
    attempts: int = 1
    failed_at: Timestamp

    def key(self) -> str:
        """The key of the source message."""
        return self.source_key
