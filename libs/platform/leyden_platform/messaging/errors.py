"""What can go wrong in the seam, and what a processor may raise to steer it."""


class MessagingError(Exception):
    """Base of the seam's errors."""


class Rejected(MessagingError):
    """Raised by a processor: this message can never be processed; dead-letter it now.

    ``reason`` is a short machine-readable cause (a metric label), the text says what to do about it.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Unavailable(MessagingError):
    """Raised by a processor: something it depends on is away; try again later, nobody is to blame."""


class PublishFailed(Unavailable):
    """The broker did not acknowledge a message in time."""


class PoisonedStream(MessagingError):
    """Too large a share of recent messages is bad; the consumer stopped instead of burying them all."""
