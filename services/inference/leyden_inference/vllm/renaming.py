"""A version's name in place of the one that vLLM knows its weights by, in bytes on their way through.

A key and its value are found by their quotes. Inside a JSON string every quote is escaped, so what a model
says can never look like it.
"""

import json


class Renamer:
    """Replaces the value of ``"model"``, however the bytes are cut into pieces."""

    def __init__(self, found: str, wanted: str) -> None:
        self._pattern = f'"model":{json.dumps(found)}'.encode()
        self._replacement = f'"model":{json.dumps(wanted)}'.encode()
        self._idle = found == wanted
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on now; the beginning of what might be the key is held back."""
        if self._idle:
            return piece
        whole = (self._held + piece).replace(self._pattern, self._replacement)
        kept = self._overlap(whole)
        self._held = whole[len(whole) - kept :]
        return whole[: len(whole) - kept]

    def flush(self) -> bytes:
        """What was held back, when nothing follows."""
        held, self._held = self._held, b""
        return held

    def _overlap(self, text: bytes) -> int:
        """Length of the longest end of ``text`` that the pattern begins with."""
        if text.endswith((b"\n", b"}")):
            return 0
        longest = min(len(text), len(self._pattern) - 1)
        return next((n for n in range(longest, 0, -1) if self._pattern.startswith(text[-n:])), 0)
