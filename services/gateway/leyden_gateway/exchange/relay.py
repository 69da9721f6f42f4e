"""What of a replica's stream the caller may have now, and what waits for the record: bytes in, bytes out.

The end of the answer (the chunk that finishes its last alternative, usage, ``[DONE]``) is held back
until Kafka has acknowledged the record, because agents act on any of these.
"""

from pydantic_core import from_json, to_json

from leyden_gateway.errors import ApiError, MalformedAnswer, TruncatedStream, UpstreamFailed
from leyden_gateway.exchange.capture import Capture, strip_chunk
from leyden_gateway.exchange.sse import DONE, EventTooLarge, SseEvent, SseParser, encode_event
from leyden_gateway.exchange.training_mode import Wants


class StreamRelay:
    """One stream on its way through. Chunks that need no change keep their bytes."""

    def __init__(self, capture: Capture, wants: Wants, *, choices: int, max_event_bytes: int) -> None:
        self._capture, self._wants, self._choices = capture, wants, choices
        self._parser = SseParser(max_event_bytes)
        self._held: list[bytes] = []
        self._holding = False
        self._malformed: MalformedAnswer | None = None
        self.done = False
        """Whether nothing more needs to be read: ``[DONE]`` has arrived, or something malformed."""

    def feed(self, chunk: bytes) -> bytes:
        """What the caller may have of this chunk."""
        visible: list[bytes] = []
        try:
            visible.extend(map(self._take, self._parser.feed(chunk)))
        except EventTooLarge as error:
            self._break(MalformedAnswer(str(error)))
        except MalformedAnswer as error:
            self._break(error)
        return b"".join(visible)

    def finish(self) -> None:
        """The stream has ended. Raises ``TruncatedStream``, ``UpstreamFailed`` or ``MalformedAnswer``."""
        rest = None if self._malformed else self._parser.finish()
        if rest:
            self._held.append(self._take(rest))
        if problem := self.problem():
            raise problem

    def _break(self, error: MalformedAnswer) -> None:
        self._malformed, self.done = error, True

    def problem(self) -> ApiError | None:
        """Why the answer is not complete, or None."""
        if self._malformed:
            return self._malformed
        if self._capture.error is not None:
            return UpstreamFailed(self._capture.error)
        if not self._capture.finished(self._choices):
            return TruncatedStream("the replica ended its stream before the completion had a finish reason")
        return None

    def held(self) -> bytes:
        """What the caller gets after the record is acknowledged."""
        return b"".join(self._held)

    def _take(self, event: SseEvent) -> bytes:
        visible = self._visible(event)
        if not self._holding:
            return visible
        self._held.append(visible)
        return b""

    def _visible(self, event: SseEvent) -> bytes:
        if event.data is None:
            return event.raw
        if event.data == DONE:
            self.done = self._holding = True
            return event.raw
        try:
            payload = from_json(event.data)
        except ValueError as error:
            raise MalformedAnswer(f"the replica sent an event that is not JSON: {error}") from None
        self._capture.chunk(payload)
        self._holding = self._capture.error is not None or self._capture.finished(self._choices)
        changed = strip_chunk(payload, self._wants)
        if changed is None:
            return b""
        return encode_event(to_json(payload)) if changed else event.raw
