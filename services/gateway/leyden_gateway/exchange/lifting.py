"""A whole answer's log-probabilities, lifted out before the rest of it is read.

They are most of its bytes, and taking the answer apart would pass over them again with every level. What
servers write without spaces is found by its text; everything else is left for the long way.
"""

from secrets import randbits
from typing import NamedTuple

import msgspec

STAND_IN = msgspec.Raw(b"%d" % randbits(120))
"""The JSON that stands where they were. No server can know it, so where it is found they were."""

_BEGIN = b'"logprobs":{"content":[{'
_NAME = len(b'"logprobs":')
_END = b'}]},"'
"""Of the last token, the list and the object; another member follows. Sought from behind: where later text
looks like it, the piece is no JSON."""


class Token(msgspec.Struct, gc=False):
    """What is read of a sampled token: servers say much more."""

    logprob: float


class _Logprobs(msgspec.Struct, gc=False):
    content: list[Token]


_logprobs = msgspec.json.Decoder(_Logprobs)


class Lifted(NamedTuple):
    """The answer with ``STAND_IN``, and a log-probability for each token."""

    rest: bytes
    logprobs: list[float]


def lift(answer: bytes) -> Lifted | None:
    """None when there are none, or they are not as expected.

    If ``rest`` is JSON with ``STAND_IN`` as a value, the answer is the same JSON with what was lifted there.
    """
    begin = answer.find(_BEGIN) + _NAME
    end = answer.rfind(_END) + 3
    if begin < _NAME or end < begin:
        return None
    piece = answer[begin:end]
    try:
        if not piece.isascii():
            piece.decode()
        tokens = _logprobs.decode(piece).content
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Lifted(b"%b%b%b" % (answer[:begin], STAND_IN, answer[end:]), [token.logprob for token in tokens])
