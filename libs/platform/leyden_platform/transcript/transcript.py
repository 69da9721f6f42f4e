"""The steps of one attempt, in order, each packed and without what an earlier one has already."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from sys import getsizeof
from uuid import UUID
from weakref import ref

import msgspec

from leyden_platform.transcript.packing import NotIds, Unpacked, pack, unpack, value
from leyden_platform.transcript.prefixes import leaning
from leyden_schemas import CONVERSATION, JsonObject, PromptBase, Protocol, Step
from leyden_schemas.whole import Link, Shape, Whole, WholeStep, link_to, shape, without_prompt

NOT_IDS = "not_token_ids"
"""Why a step cannot be trained on whose ids are no 32-bit numbers."""

_BRANCHES = 8
"""Steps that another may go on from without having said so: the last ones that no other goes on from."""
_DEEPEST = 128
"""A step that has all of its prompt is not compared with one that takes more steps to read."""


class _Packed(msgspec.Struct, frozen=True, gc=False):
    """A step, and what has to be known for others to lean on it."""

    blob: bytes
    base: int
    depth: int
    """How many others have to be read to know all of its prompt."""
    protocol: Protocol
    tokens: int
    talk: type | None
    items: int
    fields: frozenset[str]
    known: bool
    """Whether its whole prompt is."""

    @property
    def shape(self) -> Shape | None:
        if not self.known:
            return None
        talk = None if self.talk is None else (self.talk, self.items)
        return Shape(self.tokens, talk, self.fields, CONVERSATION[self.protocol])


class Transcript:
    """Steps, appended one by one and read whole."""

    __slots__ = ("_ends", "_places", "_reader", "_steps")

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self._steps: list[_Packed] = []
        self._places: dict[bytes, int] = {}
        self._ends: list[int] = []
        self._reader: ref[Whole] | None = None
        for step in steps:
            self.append(step)

    def __len__(self) -> int:
        return len(self._steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transcript) and self.steps() == other.steps()

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, completion_id: UUID) -> bool:
        return completion_id.bytes in self._places

    def completion_ids(self) -> Iterable[bytes]:
        """The ids of all steps' completions."""
        return self._places.keys()

    def place(self, completion_id: UUID) -> int | None:
        """Where a completion's step is."""
        return self._places.get(completion_id.bytes)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, roughly."""
        held = sum([getsizeof(step.blob) for step in self._steps])
        return held + 250 * len(self._steps)

    def append(self, step: Step) -> bool:
        """Keep a step. False when its prompt leans on what is not known; the step then says so.

        One that has all of its prompt, though an earlier step has the beginning of it, is kept without that.
        """
        step = step.told()
        if step.base is None and (candidates := self._candidates()):
            step = leaning(step, candidates, self.whole())
        at = self._places.get(step.base.completion_id.bytes) if step.base else None
        made = shape(step, None if at is None else self._steps[at].shape)
        if made is None:
            step = without_prompt(step)
        self._places[step.completion_id.bytes] = len(self._steps)
        depth = 0 if at is None else self._steps[at].depth + 1
        self._steps.append(_packed(step, -1 if at is None else at, depth, made))
        self._branch(at, made)
        return made is not None

    def _branch(self, base: int | None, made: Shape | None) -> None:
        if base in self._ends:
            self._ends.remove(base)
        if made is not None and (made.tokens or made.talk):
            self._ends = [*self._ends[1 - _BRANCHES :], len(self._steps) - 1]

    def _candidates(self) -> list[tuple[int, UUID]]:
        """The steps that another may go on from, the latest first."""
        ends = [end for end in reversed(self._ends) if self._steps[end].depth < _DEEPEST]
        if not ends:
            return []
        names = {place: identity for identity, place in self._places.items()}
        return [(end, UUID(bytes=names[end])) for end in ends if end in names]

    def whole(self) -> Whole:
        """A reader of the steps. It remembers what it reads: let go of it soon."""
        reader = self._reader() if self._reader else None
        if reader is None:
            reader = Whole(_View(self._steps))
            self._reader = ref(reader)
        return reader

    def steps(self) -> list[Step]:
        """The steps, each put together when its parts are asked for. They share a reader of their own, so
        that they may be looked at in another thread."""
        view = _View(self._steps)
        reader = Whole(view)
        return [WholeStep.read(view.opened(index).light, reader, index) for index in range(len(self))]

    def step(self, index: int) -> Step:
        """One of them; no other is read unless its prompt is asked for."""
        view = _View(self._steps)
        return WholeStep.read(view.opened(index).light, Whole(view), index)


def _packed(step: Step, base: int, depth: int, made: Shape | None) -> _Packed:
    try:
        blob = pack(step)
    except NotIds:
        bare = {"prompt_token_ids": [], "token_ids": [], "logprobs": [], "untrainable": NOT_IDS}
        blob, made = pack(without_prompt(step).model_copy(update=bare)), None
    if made is None:
        return _Packed(blob, -1, 0, step.protocol, 0, None, 0, frozenset(), known=False)
    kind, items = made.talk or (None, 0)
    fields = _same(made.fields)
    return _Packed(blob, base, depth, step.protocol, made.tokens, kind, items, fields, known=True)


@lru_cache(maxsize=1024)
def _same(fields: frozenset[str]) -> frozenset[str]:
    """One object for equal names of fields."""
    return fields


class _View:
    """The parts of packed steps, each unpacked when it is first needed."""

    def __init__(self, steps: Sequence[_Packed]) -> None:
        self._steps = steps
        self._opened: dict[int, Unpacked] = {}
        self._links: dict[int, Link] = {}
        self._requests: dict[int, JsonObject] = {}

    def opened(self, index: int) -> Unpacked:
        """The step at ``index``."""
        if index not in self._opened:
            self._opened[index] = unpack(self._steps[index].blob)
        return self._opened[index]

    def link(self, index: int) -> Link | None:
        if self._steps[index].base < 0:
            return None
        if index not in self._links:
            base = PromptBase.model_validate_json(self.opened(index).base)
            self._links[index] = link_to(self._steps[index].base, base)
        return self._links[index]

    def conversation(self, index: int) -> str:
        return CONVERSATION[self._steps[index].protocol]

    def prompt(self, index: int) -> Sequence[int]:
        return self.opened(index).prompt

    def sampled(self, index: int) -> Sequence[int]:
        return self.opened(index).sampled

    def logprobs(self, index: int) -> list[float]:
        return self.opened(index).logprobs.tolist()

    def request(self, index: int) -> JsonObject:
        if index not in self._requests:
            self._requests[index] = value(self.opened(index).request)
        return self._requests[index]

    def response(self, index: int) -> JsonObject | None:
        text = self.opened(index).response
        answer: JsonObject | None = value(text) if text else None
        return answer

    def told(self, index: int) -> Step:
        opened = self.opened(index)
        return Step.model_validate_json(b"%b,%b}" % (opened.light[:-1], opened.wire()))

    def wire(self, index: int) -> bytes:
        return self.opened(index).wire()
