"""Compression of many small pieces that are alike: what they share is learnt once and kept apart from them.

Until enough was seen, pieces are compressed by themselves. Every piece can be read at any time, but only by
the process that compressed it: nothing of this goes on the log.
"""

import threading

import structlog
import zstandard

log = structlog.get_logger(__name__)

_PER_BYTE = 10
"""Bytes to learn from for each one of the dictionary; zstd's authors advise more, for pieces less alike."""


class Squeezer:
    """Compresses bytes, with a dictionary of ``dictionary_bytes`` once it could be learnt."""

    def __init__(self, *, dictionary_bytes: int, level: int) -> None:
        self._size, self._level = dictionary_bytes, level
        self._own = _Own()
        self._learning = threading.Lock()
        self._seen: list[bytes | bytearray | memoryview[int]] = []
        self._missing = _PER_BYTE * dictionary_bytes
        self.dictionary: zstandard.ZstdCompressionDict | None = None
        """What was learnt. It does not change any more."""

    def squeeze(self, raw: bytes) -> bytes:
        """Fewer bytes that say the same, in memory of their own."""
        if self._missing > 0:
            self._learn(raw)
        return bytes(memoryview(self._tools().compressor.compress(raw)))

    def expand(self, packed: bytes) -> bytes:
        """What was squeezed."""
        return self._tools().decompressor.decompress(packed)

    def _tools(self) -> "_Own":
        own = self._own
        if own.dictionary is not self.dictionary or own.fresh:
            own.make(self.dictionary, self._level)
        return own

    def _learn(self, raw: bytes) -> None:
        with self._learning:
            if self._missing <= 0:
                return
            self._seen.append(bytes(raw))
            self._missing -= len(raw)
            if self._missing > 0:
                return
            seen, self._seen = self._seen, []
            try:
                learnt = zstandard.train_dictionary(self._size, seen, level=self._level)
            except zstandard.ZstdError as error:  # too few pieces, or all of them equal
                log.info("no_dictionary", pieces=len(seen), error=str(error))
                return
            learnt.precompute_compress(level=self._level)
            self.dictionary = learnt


class _Own(threading.local):
    """One of each for every thread: making one costs as much as compressing a step."""

    fresh = True
    dictionary: zstandard.ZstdCompressionDict | None = None
    compressor: zstandard.ZstdCompressor
    decompressor: zstandard.ZstdDecompressor

    def make(self, dictionary: zstandard.ZstdCompressionDict | None, level: int) -> None:
        """Begin to use a dictionary, or none."""
        self.compressor = zstandard.ZstdCompressor(level=level, dict_data=dictionary)
        self.decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)
        self.dictionary, self.fresh = dictionary, False


TEXTS = Squeezer(dictionary_bytes=64 * 1024, level=1)
"""For JSON."""
IDS = Squeezer(dictionary_bytes=32 * 1024, level=1)
"""For token ids, byte by byte."""
