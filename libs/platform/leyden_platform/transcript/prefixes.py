"""What a step that came whole has in common with an earlier one of its attempt.

The gateway leaves such beginnings out of what it records, as far as one process of it remembers them; other
producers never do. What is called common here is equal as JSON.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from leyden_schemas import CONVERSATION, PromptBase, Step
from leyden_schemas.whole import Whole

_LEAST_TOKENS = 32
"""A base that saves less is not worth the bytes that name it, unless it saves a part of the conversation."""


def leaning(step: Step, candidates: Sequence[tuple[int, UUID]], known: Whole) -> Step:
    """The step without what the best of the candidates has already; itself if none has anything."""
    own = _ids(step.prompt_token_ids)
    best, shared = candidates[0], 0
    for candidate in candidates:
        theirs = _ids(known.prompt_token_ids(candidate[0]), known.parts.sampled(candidate[0]))
        length = common(own, theirs) // 4
        if length > shared:
            best, shared = candidate, length
        if shared and 4 * shared == len(theirs):
            break
    goes_on = known.parts.conversation(best[0]) == CONVERSATION[step.protocol]
    return _without(step, shared, known.request(best[0]), best[1], goes_on=goes_on)


def common(one: bytes, other: bytes) -> int:
    """The number of leading bytes that are equal."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _ids(*pieces: Sequence[int]) -> bytes:
    try:
        return b"".join([array("I", piece).tobytes() for piece in pieces])
    except (OverflowError, TypeError):
        return b""


def _without(step: Step, tokens: int, base: Mapping[str, Any], base_id: UUID, *, goes_on: bool) -> Step:
    name = CONVERSATION[step.protocol]
    talk = step.request.get(name)
    items = _shared_items(talk, base.get(name)) if goes_on else 0
    if tokens < _LEAST_TOKENS and not items:
        return step
    same = [field for field, value in step.request.items() if field != name and _same(base, field, value)]
    request = {field: value for field, value in step.request.items() if field not in same}
    if items and talk is not None:
        request[name] = talk[items:]
    leans = PromptBase(completion_id=base_id, tokens=tokens, items=items, fields=tuple(same))
    changes = {"base": leans, "prompt_token_ids": step.prompt_token_ids[tokens:], "request": request}
    return step.model_copy(update=changes)


def _same(base: Mapping[str, Any], field: str, value: object) -> bool:
    return field in base and _text(base[field]) == _text(value)


def _shared_items(own: object, theirs: object) -> int:
    """Equal items at the beginning of two lists; of two texts, all of the other one or nothing."""
    if isinstance(own, str) and isinstance(theirs, str):
        return len(theirs) if own.startswith(theirs) else 0
    if not (isinstance(own, list) and isinstance(theirs, list)):
        return 0
    pairs = enumerate(zip(own, theirs, strict=False))
    return next((at for at, pair in pairs if _text(pair[0]) != _text(pair[1])), min(len(own), len(theirs)))


def _text(value: object) -> bytes:
    return to_json(value, inf_nan_mode="strings")
