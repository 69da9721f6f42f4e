"""What of a replica's stream the caller may have now, and what waits for the record: bytes in, bytes out.

The end of the answer (the chunk that finishes its last alternative, usage, ``[DONE]``) is held back
until Kafka has acknowledged the record, because agents act on any of these.
"""

from leyden_gateway.errors import ApiError, MalformedAnswer, TruncatedStream, UpstreamFailed
from leyden_gateway.exchange.capture import Capture
from leyden_gateway.exchange.dialects import Translator
from leyden_gateway.exchange.fields import MAX_DEPTH, Fields, NotJson, check_readable, encode, parse_answer
from leyden_gateway.exchange.sse import DONE, EventTooLarge, SseEvent, SseParser, encode_event, replaced
from leyden_gateway.exchange.training_mode import Wants

_SUSPICIOUS = 2 * MAX_DEPTH
"""Bytes below which an event cannot be nested too deeply."""


class StreamRelay:
    """One stream on its way through. Chunks that need no change keep their bytes."""

    def __init__(
        self,
        capture: Capture,
        wants: Wants,
        *,
        choices: int,
        max_event_bytes: int,
        translator: Translator | None = None,
    ) -> None:
        self._capture, self._wants, self._choices = capture, wants, choices
        self._translator = translator
        self._parser = SseParser(max_event_bytes)
        self._held: list[bytes] = []
        self.holding = False
        """Whether the end has begun: all alternatives have finished, or the replica told of an error."""
        self._malformed: MalformedAnswer | None = None
        self.done = False
        """Whether nothing more needs to be read: ``[DONE]`` has arrived, or something malformed."""
        self._told_end = False
        """Whether ``[DONE]`` has: servers that ignore ``n`` send it after their one alternative."""

    def feed(self, chunk: bytes) -> bytes:
        """What the caller may have of this chunk."""
        visible: list[bytes] = []
        try:
            for event in self._parser.feed(chunk):
                piece = self._visible(event)
                (self._held if self.holding else visible).append(piece)
        except EventTooLarge as error:
            self._break(MalformedAnswer(str(error)))
        except MalformedAnswer as error:
            self._break(error)
        return visible[0] if len(visible) == 1 else b"".join(visible)

    def finish(self) -> None:
        """The stream has ended. Raises ``TruncatedStream``, ``UpstreamFailed`` or ``MalformedAnswer``."""
        rest = None if self._malformed else self._parser.finish()
        if rest:
            self._held.append(self._visible(rest))
        if problem := self.problem():
            raise problem

    def cut(self) -> None:
        """The answer has finished, and its server is not waited for to say so: clients want to hear it."""
        if not self._told_end and self._translator is None:
            self._held.append(encode_event(DONE))

    def _break(self, error: MalformedAnswer) -> None:
        self._malformed, self.done = error, True

    def problem(self) -> ApiError | None:
        """Why the answer is not complete, or None."""
        if self._malformed:
            return self._malformed
        if self._capture.error is not None:
            return UpstreamFailed(self._capture.error)
        if not self._capture.finished(1 if self._told_end else self._choices):
            return TruncatedStream("the replica ended its stream before the completion had a finish reason")
        return None

    def held(self) -> bytes:
        """What the caller gets after the record is acknowledged."""
        end = b"" if self._translator is None else self._translator.end()
        return b"".join(self._held) + end

    def _visible(self, event: SseEvent) -> bytes:
        if event.data is None or not (data := event.data.strip()):
            return event.raw  # the grammar has empty events told to nobody: they keep a stream alive
        if data == DONE:
            self.done = self.holding = self._told_end = True
            return event.raw if self._translator is None else b""
        try:
            payload = parse_answer(event.data)
            if len(event.data) > _SUSPICIOUS:
                check_readable(event.data)
        except NotJson as error:
            raise MalformedAnswer(f"the replica sent an event that is not JSON: {error}") from None
        seen = self._capture.chunk(payload, self._wants)
        if not self.holding:
            self.holding = self._capture.error is not None or self._capture.finished(self._choices)
        return self._told(event, payload, seen)

    def _told(self, event: SseEvent, payload: Fields, seen: Fields | None) -> bytes:
        if self._translator is not None:
            return b"" if self._capture.error is not None else self._translator.chunk(payload)
        if seen is None:
            return b""
        return event.raw if seen is payload else replaced(event, encode(seen))
