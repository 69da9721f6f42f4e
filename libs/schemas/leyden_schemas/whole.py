"""Steps made whole when somebody looks at them.

A step on the log holds what its base does not say, so that a trajectory of many turns grows with what is new
in each. Rules and reward functions are given whole steps; each is put together when one of its parts is asked
for, from parts that all steps of the rollout share. ``Parts`` is where those are kept: here, steps as they
were read; in the services, packed.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

from pydantic_core import to_json

from leyden_schemas.base import JsonObject
from leyden_schemas.deltas import CONVERSATION
from leyden_schemas.events import PromptBase
from leyden_schemas.trajectories import Step, Trajectory

LAZY = ("prompt_token_ids", "token_ids", "logprobs", "request", "response")
"""The fields of a whole step that are put together when asked for."""

BASE_UNKNOWN = "base_unknown"
"""Why a step cannot be trained on whose prompt leans on a step that is not there."""

_REMEMBERED = 8
"""Whole prompts and conversations kept: a step mostly goes on from one of the last few."""
_FIELDS = 256
"""Other fields of requests kept."""


class Link(NamedTuple):
    """Where a step's prompt begins: in the step ``base``, of which it takes tokens, items and fields."""

    base: int
    tokens: int
    items: int
    fields: Sequence[str]


class Parts(Protocol):
    """What each step of an attempt says itself, by its place among the steps."""

    def link(self, index: int) -> Link | None:
        """Where the rest of its prompt is, if it is elsewhere; always in an earlier step."""

    def conversation(self, index: int) -> str:
        """The field of its request that grows from turn to turn."""

    def prompt(self, index: int) -> Sequence[int]:
        """The ids of its prompt that its base does not have."""

    def sampled(self, index: int) -> Sequence[int]:
        """The ids it sampled."""

    def logprobs(self, index: int) -> list[float]:
        """Their log-probabilities."""

    def request(self, index: int) -> JsonObject:
        """The fields, and the items of the conversation, that its base does not have."""

    def response(self, index: int) -> JsonObject | None:
        """The answer."""

    def told(self, index: int) -> Step:
        """The step as it lies on the log."""

    def wire(self, index: int) -> bytes:
        """``base`` and all lazy fields as members of a JSON object, as they lie on the log."""


class Whole:
    """Reads whole prompts and requests from parts. Lists that it returns belong to the caller."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._ids: OrderedDict[int, list[int]] = OrderedDict()
        self._talks: OrderedDict[int, Any] = OrderedDict()
        self._fields: OrderedDict[tuple[int, str], Any] = OrderedDict()

    def prompt_token_ids(self, index: int) -> list[int]:
        """All ids of a prompt."""
        known = self._ids.get(index)
        return list(known) if known is not None else _kept(self._ids, index, self._joined_ids(index))[:]

    def request(self, index: int) -> JsonObject:
        """All fields of a request."""
        own, link = self.parts.request(index), self.parts.link(index)
        if link is None:
            return dict(own)
        request = {name: self._field(link.base, name) for name in link.fields} | own
        if link.items:
            request[self.parts.conversation(index)] = self._talk(index)
        return request

    def _joined_ids(self, index: int) -> list[int]:
        """From this step back to where all that is still missing is known."""
        pieces: list[Sequence[int]] = [self.parts.prompt(index)]
        link = self.parts.link(index)
        at, missing = (link.base, link.tokens) if link else (-1, 0)
        while missing:
            link = self.parts.link(at)
            inherited = link.tokens if link else 0
            known = self._ids.get(at)
            if known is not None:
                inherited, own = 0, [*known, *self.parts.sampled(at)]
            elif missing > inherited:
                own = [*self.parts.prompt(at), *self.parts.sampled(at)]
            if missing > inherited:
                pieces.append(own[: missing - inherited])
            at, missing = (link.base if link else -1), min(missing, inherited)
        return list(chain.from_iterable(reversed(pieces)))

    def _field(self, index: int, name: str) -> Any:
        """One field of a whole request: where it was said, or where it is remembered."""
        at = index
        while (at, name) not in self._fields:
            link = self.parts.link(at)
            if link and link.items and name == self.parts.conversation(at):
                return self._talk(at)
            own = self.parts.request(at)
            if name in own or link is None or name not in link.fields:
                return _kept(self._fields, (index, name), own.get(name), _FIELDS)
            at = link.base
        return _kept(self._fields, (index, name), self._fields[at, name], _FIELDS)

    def _talk(self, index: int) -> Any:
        """The whole conversation of a step that begins with items of its base's."""
        known = self._talks.get(index)
        if known is None:
            known = _kept(self._talks, index, self._joined_talk(index))
        return known if isinstance(known, str) else list(known)

    def _joined_talk(self, index: int) -> Any:
        name = self.parts.conversation(index)
        pieces = [self.parts.request(index)[name]]
        link = self.parts.link(index)
        at, missing = (link.base, link.items) if link else (-1, 0)
        while missing:
            link = self.parts.link(at)
            leans = link is not None and link.items > 0 and name == self.parts.conversation(at)
            if (known := self._talks.get(at)) is not None or not leans or link is None:
                pieces.append((self._field(at, name) if known is None else known)[:missing])
                break
            if missing > link.items:
                pieces.append(self.parts.request(at)[name][: missing - link.items])
            at, missing = link.base, min(missing, link.items)
        pieces.reverse()
        return "".join(pieces) if isinstance(pieces[0], str) else list(chain.from_iterable(pieces))


def _kept(cache: "OrderedDict[Any, Any]", key: Any, value: Any, most: int = _REMEMBERED) -> Any:
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)
    return value


class WholeStep(Step):
    """A step that looks whole and leans on its base where it is written down."""

    __slots__ = ("_index", "_whole")

    if TYPE_CHECKING:
        _whole: Whole
        _index: int

    @classmethod
    def of(cls, step: Step, whole: Whole, index: int) -> "WholeStep":
        """The step at a place; those of its fields that are not lazy are taken over.

        Lazy ones are given, to be taken away again: looking for a default costs more than all else here.
        """
        fields: dict[str, Any] = dict.fromkeys(LAZY)
        fields |= {name: getattr(step, name) for name in Step.model_fields if name not in LAZY}
        fields["base"] = None
        return cls.model_construct(**fields)._at(whole, index)

    @classmethod
    def read(cls, light: bytes, whole: Whole, index: int) -> "WholeStep":
        """The step at a place; ``light`` is JSON of those of its fields that are not lazy, and valid."""
        return cls.model_validate_json(light)._at(whole, index)

    def _at(self, whole: Whole, index: int) -> "WholeStep":
        for name in LAZY:
            self.__dict__.pop(name, None)
        return self._placed(whole, index)

    def _placed(self, whole: Whole, index: int) -> "WholeStep":
        object.__setattr__(self, "_whole", whole)
        object.__setattr__(self, "_index", index)
        return self

    def __copy__(self) -> "WholeStep":
        return super().__copy__()._placed(self._whole, self._index)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "WholeStep":
        return super().__deepcopy__(memo)._placed(self._whole, self._index)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Put a part together."""
            return self._part(name) if name in LAZY else super().__getattr__(name)

    def _part(self, name: str) -> Any:
        whole, index = self._whole, self._index
        match name:
            case "prompt_token_ids":
                return whole.prompt_token_ids(index)
            case "token_ids":
                return list(whole.parts.sampled(index))
            case "logprobs":
                return whole.parts.logprobs(index)
            case "request":
                return whole.request(index)
            case _:
                return whole.parts.response(index)

    def is_at(self, whole: Whole, index: int) -> bool:
        """Whether it is the step at a place, with nothing of it replaced."""
        return self._whole is whole and self._index == index and not self._changed

    @property
    def _changed(self) -> bool:
        """Whether one of its parts was replaced."""
        return any(name in self.__dict__ for name in LAZY)

    def plain(self) -> Step:
        """A step with every field in memory."""
        return Step.model_construct(**{name: getattr(self, name) for name in Step.model_fields})

    def told(self) -> Step:
        """The step as it lies on the log; one that was changed has all of its prompt."""
        if self._changed:
            return self.plain()
        return self._whole.parts.told(self._index).model_copy(update=self._light())

    def _light(self) -> JsonObject:
        return {name: value for name, value in self.__dict__.items() if name != "base"}

    def to_json(self) -> bytes:
        """The step as UTF-8 JSON; one that was changed is written whole."""
        if self._changed:
            return self.plain().to_json()
        head = to_json(self._light(), inf_nan_mode="strings")
        return b"%b,%b}" % (head[:-1], self._whole.parts.wire(self._index))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.plain() == other.plain()

    __hash__ = None  # type: ignore[assignment]


def parts_of(steps: Sequence[Step]) -> Parts | None:
    """Where the parts of these steps are kept; None unless they are all steps of one attempt, unchanged."""
    first = steps[0] if steps else None
    if not isinstance(first, WholeStep):
        return None
    reader = first._whole
    placed = enumerate(steps)
    whole = all(isinstance(step, WholeStep) and step.is_at(reader, index) for index, step in placed)
    return reader.parts if whole else None


class _Read:
    """Steps as they were read from the log."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self._links = links(steps)

    def link(self, index: int) -> Link | None:
        return self._links[index]

    def conversation(self, index: int) -> str:
        return CONVERSATION[self._steps[index].protocol]

    def prompt(self, index: int) -> Sequence[int]:
        return self._steps[index].prompt_token_ids

    def sampled(self, index: int) -> Sequence[int]:
        return self._steps[index].token_ids

    def logprobs(self, index: int) -> list[float]:
        return self._steps[index].logprobs

    def request(self, index: int) -> JsonObject:
        return self._steps[index].request

    def response(self, index: int) -> JsonObject | None:
        return self._steps[index].response

    def told(self, index: int) -> Step:
        return self._steps[index]

    def wire(self, index: int) -> bytes:
        members = self._steps[index].model_dump_json(include={"base", *LAZY})
        return members[1:-1].encode()


class Shape(NamedTuple):
    """What has to be known of a step for others to lean on it: how much there is to take."""

    tokens: int
    """Ids of its whole prompt and sampled ids."""
    talk: tuple[type, int] | None
    """Whether its whole conversation is a list or a text, and its length."""
    fields: frozenset[str]
    """The names of its whole request."""
    conversation: str
    """Which of them is its conversation."""


def shape(step: Step, base: Shape | None) -> Shape | None:
    """The shape of a step that leans on one of shape ``base``; None when that has not what it takes."""
    name = CONVERSATION[step.protocol]
    own = step.request.get(name)
    talk = (type(own), len(own)) if isinstance(own, list | str) else None
    tokens = len(step.prompt_token_ids) + len(step.token_ids)
    fields = frozenset(step.request)
    if step.base is None:
        return Shape(tokens, talk, fields, name)
    if base is None or step.base.tokens > base.tokens or not base.fields.issuperset(step.base.fields):
        return None
    theirs = base.talk if base.conversation == name else None
    if step.base.items:
        if talk is None or theirs is None or theirs[0] is not talk[0] or step.base.items > theirs[1]:
            return None
        talk = (talk[0], step.base.items + talk[1])
    elif name in step.base.fields and own is None:
        talk = theirs
    return Shape(step.base.tokens + tokens, talk, fields.union(step.base.fields), name)


def links(steps: Sequence[Step]) -> list[Link | None]:
    """Where each step's prompt begins. Raises ``KeyError`` for a base that is not there or has too little."""
    places: dict[UUID, tuple[int, Shape]] = {}
    found: list[Link | None] = []
    for index, step in enumerate(steps):
        at, base = places[step.base.completion_id] if step.base else (-1, None)
        if (made := shape(step, base)) is None:
            raise KeyError(step.completion_id)
        places[step.completion_id] = index, made
        found.append(link_to(at, step.base) if step.base else None)
    return found


def link_to(place: int, base: PromptBase) -> Link:
    """The link of a step whose base is at ``place``."""
    return Link(place, base.tokens, base.items, base.fields)


def without_prompt(step: Step) -> Step:
    """The step where its base is not known: neither prompt nor answer, for rules would blame the agent."""
    missing: JsonObject = {"prompt_token_ids": [], "request": {}, "response": None, "base": None}
    return step.model_copy(update=missing | {"untrainable": BASE_UNKNOWN})


def whole(trajectory: Trajectory) -> Trajectory:
    """The trajectory with steps that look whole. One whose base is not there says ``base_unknown``."""
    if all(step.base is None for step in trajectory.steps):
        return trajectory
    steps = resolvable(trajectory.steps)
    reader = Whole(_Read(steps))
    made = [WholeStep.of(step, reader, index) for index, step in enumerate(steps)]
    return trajectory.model_copy(update={"steps": made})


def resolvable(steps: Sequence[Step]) -> list[Step]:
    """The steps, without the prompt where the base is not among those before it or has too little."""
    shapes: dict[UUID, Shape] = {}
    kept = []
    for step in steps:
        made = shape(step, shapes.get(step.base.completion_id) if step.base else None)
        if made is None:
            kept.append(without_prompt(step))
            shapes.pop(step.completion_id, None)  # of an earlier step with the same id
        else:
            shapes[step.completion_id] = made
            kept.append(step)
    return kept
