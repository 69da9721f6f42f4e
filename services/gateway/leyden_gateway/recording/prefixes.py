"""How much of a JSON array or text repeats an earlier one, decided on the bytes.

Nothing is decoded to compare it. What is called shared has equal bytes, therefore equal values; another
spacing only makes less of it shared. An *open* text lacks its closing bracket or quote, so that what
continues it begins with it.
"""

import re
from bisect import bisect_right

import msgspec

_ENDS = (b",", b"]", b"")
"""What follows a whole number; nothing does where an open text ends."""
_SEPARATOR = re.compile(rb"\s*(?:,\s*|(?=\]))")
_SPACE = re.compile(rb"[\s,]*")
_items = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)


class Shared(msgspec.Struct, frozen=True, gc=False):
    """``taken`` leading elements are equal; the rest of the new value begins at ``rest``, 0 for all of it."""

    taken: int = 0
    rest: int = 0

    def cut(self, raw: bytes) -> bytes:
        """The new value without what is shared, still an array or a text."""
        return raw[:1] + raw[self.rest :] if self.rest else raw


NOTHING = Shared()


def common(one: bytes, other: bytes) -> int:
    """The number of leading bytes that are equal, found in steps that grow and then halve."""
    low, step, end = 0, 64, min(len(one), len(other))
    high = min(step, end)
    while other.startswith(one[low:high], low):
        if high == end:
            return end
        low, step = high, 2 * step
        high = min(low + step, end)
    while high - low > 1:
        middle = (low + high) // 2
        if other.startswith(one[low:middle], low):
            low = middle
        else:
            high = middle
    return low


class Ids(msgspec.Struct, frozen=True, gc=False):
    """A flat array of token ids as an open text, and how many they are."""

    text: bytes
    count: int

    def begin(self, array: bytes) -> bool:
        """Whether the array, open or not, starts with all of these ids, and there are any."""
        end = len(self.text)
        return array.startswith(self.text) and array[end : end + 1] in _ENDS and self.count > 0

    def shared(self, array: bytes) -> Shared:
        """What the array has in common with these."""
        end = len(self.text)
        if self.begin(array):
            return Shared(self.count, end + array.startswith(b",", end))
        end = len(array) - 1
        if self.text.startswith(array[:end]) and self.text.startswith(b",", end) and end > 1:
            return Shared(array.count(b",") + 1, end)
        cut = array.rfind(b",", 0, common(self.text, array)) + 1
        return Shared(array.count(b",", 0, cut), cut)


def count(array: bytes) -> int:
    """How many numbers a flat array holds."""
    commas = array.count(b",")
    return commas + 1 if commas else bool(array[1:-1].strip())


def sequence(prompt: bytes, tokens: int, sampled: bytes) -> Ids:
    """The ids of a prompt, ``tokens`` of them, followed by those sampled after it."""
    comma = prompt.find(b",")
    separator = b", " if prompt.startswith(b", ", comma) else b","
    if len(separator) > 1 or b" " in sampled:  # the gateway joined the pieces of a stream
        sampled = sampled.replace(b" ", b"").replace(b",", separator)
    more = count(sampled)
    if not tokens or not more:
        return Ids((prompt if tokens else sampled)[:-1].rstrip(), tokens + more)
    return Ids(separator.join((prompt[:-1].rstrip(), sampled[1:-1])), tokens + more)


class Items(msgspec.Struct, frozen=True, gc=False):
    """An array of any values as an open text, and where each of them ends in it."""

    text: bytes
    ends: list[int]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ends)

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        return len(self.text) + 36 * len(self.ends)

    def shared(self, raw: bytes) -> Shared:
        """What another value has in common with these."""
        end = len(self.text)
        if raw.startswith(self.text) and (separator := _SEPARATOR.match(raw, end)):
            return Shared(len(self.ends), separator.end()) if self.ends else NOTHING
        end = common(self.text, raw)
        taken = bisect_right(self.ends, end)
        if taken and self.ends[taken - 1] == end and not _SEPARATOR.match(raw, end):
            taken -= 1  # a number goes on, as 3 does in 34
        separator = _SEPARATOR.match(raw, self.ends[taken - 1]) if taken else None
        return Shared(taken, separator.end()) if separator else NOTHING


class Text(msgspec.Struct, frozen=True, gc=False):
    """A JSON string as an open text, and its length in characters."""

    text: bytes
    count: int

    @property
    def size(self) -> int:
        """Bytes of memory, roughly."""
        return len(self.text)

    def shared(self, raw: bytes) -> Shared:
        """All of this text or nothing: a cut within it could fall into an escape."""
        return Shared(self.count, len(self.text)) if self.count and raw.startswith(self.text) else NOTHING


Conversation = Items | Text


def conversation(raw: bytes, known: Conversation | None, shared: Shared) -> Conversation | None:
    """A conversation to compare later ones with; None if it is neither an array nor a text.

    What it shares with a known one is not taken apart again.
    """
    try:
        if raw.startswith(b"["):
            ends = known.ends[: shared.taken] if isinstance(known, Items) else []
            return _array(raw, ends, max(1, shared.rest), _items.decode(shared.cut(raw)))
        return Text(raw[:-1], shared.taken + len(_text.decode(shared.cut(raw))))
    except msgspec.DecodeError:
        return None


def _array(raw: bytes, ends: list[int], position: int, rest: list[msgspec.Raw]) -> Items:
    for item in rest:
        if space := _SPACE.match(raw, position):
            position = space.end() + len(item)
            ends.append(position)
    return Items(raw[: ends[-1]] if ends else b"[", ends)
