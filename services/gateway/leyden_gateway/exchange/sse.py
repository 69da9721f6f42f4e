"""Server-sent events, parsed as their bytes arrive; each event keeps the bytes it came as.

Grammar: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re
from typing import NamedTuple

DONE = b"[DONE]"

# A line ends in CRLF, LF or CR. A CR that ends the buffer may be half of a CRLF, so it does not count yet.
_EOL = rb"(?:\r\n|\n|\r(?!\n|\Z))"
_BLANK_LINE = re.compile(_EOL + _EOL)
_LINE = re.compile(rb"\r\n|\n|\r")
_LINE_AND_END = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event is longer than the parser holds."""


class SseEvent(NamedTuple):
    """One event. ``data`` is None for events without data, such as keep-alive comments.

    (A tuple, because every token of a stream is one.)
    """

    raw: bytes
    data: bytes | None


class SseParser:
    """Cuts a byte stream into events, however its chunks fall.

    Invariant: the ``raw`` of all events, in order, is the stream; ``finish`` gives the rest. Only a byte
    order mark that a stream begins with is left out, as the grammar has it: clients differ in what they
    make of one.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._buffer = b""
        self._searched = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that ``chunk`` completes. Raises ``EventTooLarge``."""
        if not self._buffer and (event := _usual(chunk)):
            self._begun = True
            return [event]
        buffer = self._buffer + chunk if self._buffer else chunk
        events = []
        start = 0
        end = _BLANK_LINE.search(buffer, self._searched)
        while end:
            events.append(self._event(buffer[start : end.end()]))
            start = end.end()
            end = _BLANK_LINE.search(buffer, start)
        self._buffer = buffer[start:]
        self._searched = max(0, len(self._buffer) - 3)
        if len(self._buffer) > self._max:
            raise EventTooLarge(f"a server-sent event is longer than {self._max} bytes")
        return events

    def finish(self) -> SseEvent | None:
        """What was left when the stream ended: an event without its blank line, or None."""
        rest, self._buffer, self._searched = self._buffer, b"", 0
        return self._event(rest) if rest else None

    def _event(self, raw: bytes) -> SseEvent:
        first, self._begun = not self._begun, True
        return event_of(raw.removeprefix(_BOM) if first else raw)


def event_of(raw: bytes) -> SseEvent:
    """The event these bytes are; several ``data`` lines are joined by newlines."""
    if usual := _usual(raw):
        return usual
    values = [value for line in _LINE.split(raw) if (value := _data(line)) is not None]
    return SseEvent(raw, b"\n".join(values) if values else None)


def _usual(raw: bytes) -> SseEvent | None:
    """The event, if these bytes are one of the kind that nearly all are: a single ``data`` line."""
    if not raw.startswith(b"data: ") or raw.find(b"\n") != len(raw) - 2 or raw[-1:] != b"\n" or b"\r" in raw:
        return None
    return SseEvent(raw, raw[6:-2])


def _data(line: bytes) -> bytes | None:
    if line == b"data":
        return b""
    return line[5:].removeprefix(b" ") if line.startswith(b"data:") else None


def encode_event(data: bytes, *, name: str | None = None) -> bytes:
    """One event that carries ``data``, which has no line breaks."""
    return b"data: %b\n\n" % data if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), data)


_AROUND = len(encode_event(b""))


def replaced(event: SseEvent, data: bytes) -> bytes:
    """The event with other data, which has no line breaks; its name, its id and its line ends stay."""
    raw, old = event
    if old is not None and len(raw) == len(old) + _AROUND and raw[-2:] == b"\n\n":
        return encode_event(data)
    lines = _LINE_AND_END.findall(raw)
    first = next(place for place, (line, _end) in enumerate(lines) if _data(line) is not None)
    kept = [
        (b"data: " + data if place == first else line) + end
        for place, (line, end) in enumerate(lines)
        if place == first or _data(line) is None
    ]
    return b"".join(kept)
