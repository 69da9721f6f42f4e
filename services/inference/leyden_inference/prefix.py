"""Prompt beginnings that were computed before: the system prompt, the tools, the turns so far.

Keys and values depend only on the tokens up to them, so they are kept in blocks of ``BLOCK`` tokens, found by
the exact tokens of the block and the identity of the block before it. Least recently used blocks make room.
"""

from collections import OrderedDict

import torch
from torch import Tensor

from leyden_inference.decoder import Cache

BLOCK = 16
"""Tokens of one block; a prefix is reused in multiples of it."""

_Key = tuple[int, tuple[int, ...]]


class PrefixCache:
    """Blocks of one version's keys and values, at most ``tokens`` tokens of them."""

    def __init__(self, cache: Cache, tokens: int) -> None:
        self._cache = cache
        layers, _rows, h, _positions, d = cache.keys.shape
        self._blocks = tokens // BLOCK
        self._keys, self._values = (torch.empty((self._blocks, layers, h, BLOCK, d)) for _ in range(2))
        self._known: OrderedDict[_Key, tuple[int, int]] = OrderedDict()
        self._free = list(range(self._blocks))
        self._identity = 0

    def known(self, tokens: list[int]) -> int:
        """How many tokens ``restore`` would spare."""
        return len(self._walk(tokens, (len(tokens) - 1) // BLOCK)) * BLOCK

    def restore(self, tokens: list[int], row: int) -> int:
        """Copy the longest known beginning of ``tokens`` into a row; return its length.

        At least the last token is left to compute, because its hidden state is needed.
        """
        places = [place for _key, place in self._walk(tokens, (len(tokens) - 1) // BLOCK)]
        if not places:
            return 0
        length = len(places) * BLOCK
        index = torch.tensor(places)
        self._cache.keys[:, row, :, :length] = _join(self._keys[index])
        self._cache.values[:, row, :, :length] = _join(self._values[index])
        return length

    def remember(self, tokens: list[int], row: int, written: int) -> None:
        """Keep the whole blocks of the first ``written`` tokens of a row, which hold ``tokens``."""
        whole = written // BLOCK
        known = self._walk(tokens, whole)
        parent = self._known[known[-1][0]][1] if known else 0
        pinned = {key for key, _place in known}
        for index in range(len(known), whole):
            place = self._take(pinned)
            if place is None:
                return
            begin, end = index * BLOCK, (index + 1) * BLOCK
            self._keys[place] = self._cache.keys[:, row, :, begin:end]
            self._values[place] = self._cache.values[:, row, :, begin:end]
            self._identity += 1
            key = (parent, tuple(tokens[begin:end]))
            self._known[key] = (place, self._identity)
            pinned.add(key)
            parent = self._identity

    def _walk(self, tokens: list[int], blocks: int) -> list[tuple[_Key, int]]:
        """Known blocks from the start, at most ``blocks``; touching them makes them recent."""
        found: list[tuple[_Key, int]] = []
        parent = 0
        for index in range(blocks):
            key = (parent, tuple(tokens[index * BLOCK : (index + 1) * BLOCK]))
            if key not in self._known:
                break
            place, parent = self._known[key]
            self._known.move_to_end(key)
            found.append((key, place))
        return found

    def _take(self, pinned: set[_Key]) -> int | None:
        """A free place, or that of the least recently used block; None when only pinned blocks are left."""
        if self._free:
            return self._free.pop()
        oldest = next(iter(self._known), None)
        if oldest is None or oldest in pinned:
            return None
        return self._known.pop(oldest)[0]


def _join(blocks: Tensor) -> Tensor:
    """Blocks (m, layers, h, BLOCK, d) as one run of positions: (layers, h, m * BLOCK, d)."""
    return blocks.movedim(0, 2).flatten(2, 3)
