"""Bytes to messages and back: which types a topic carries, and errors a person can act on."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from leyden_schemas.base import Message, Topic
from leyden_schemas.deadletters import DeadLetter
from leyden_schemas.events import EventMessage
from leyden_schemas.models import ModelMessage
from leyden_schemas.samples import TrainingSample
from leyden_schemas.tasks import RolloutAssigned, Task
from leyden_schemas.topics import Topics
from leyden_schemas.trajectories import Trajectory
from leyden_schemas.whole import whole

ADAPTERS: dict[str, TypeAdapter[Any]] = {
    Topics.TASKS.name: TypeAdapter(Task),
    Topics.ROLLOUTS.name: TypeAdapter(RolloutAssigned),
    Topics.EVENTS.name: TypeAdapter(EventMessage),
    Topics.TRAJECTORIES.name: TypeAdapter(Trajectory),
    Topics.RANKINGS.name: TypeAdapter(Trajectory),
    Topics.SAMPLES.name: TypeAdapter(TrainingSample),
    Topics.MODELS.name: TypeAdapter(ModelMessage),
    Topics.DEADLETTERS.name: TypeAdapter(DeadLetter),
}

_MOST_PROBLEMS = 8


class MalformedMessage(ValueError):
    """Bytes that are not a message of their topic; the text says which field and what was expected.

    ``problems`` say so to programs: the path of each field, and pydantic's name of what is wrong with it.
    """

    def __init__(self, text: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)


def encode(message: Message) -> bytes:
    """The message as UTF-8 JSON; ``decode`` gives an equal message back."""
    return message.to_json()


def decode(topic: Topic | str, value: bytes | None) -> Any:
    """The message that ``value`` holds.

    Queues of a topic (``leyden.tasks.v1.<queue>``) carry the topic's own type.
    A trajectory's steps look whole. Raises ``MalformedMessage``; never anything else for bad bytes.
    """
    name = topic.name if isinstance(topic, Topic) else topic
    adapter = ADAPTERS.get(name) or next((a for n, a in ADAPTERS.items() if name.startswith(n + ".")), None)
    if adapter is None:
        raise KeyError(f"{name} is not a Leyden topic; known: {', '.join(ADAPTERS)}")
    if value is None:
        raise MalformedMessage("empty value (a tombstone) where a JSON object was expected")
    try:
        message = adapter.validate_json(value)
    except ValidationError as error:
        problems = [
            (_path(item["loc"]), item["type"])
            for item in error.errors(include_url=False, include_input=False)[:_MOST_PROBLEMS]
        ]
        raise MalformedMessage(_explain(error), problems) from None
    return whole(message) if isinstance(message, Trajectory) else message


def _explain(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)[:_MOST_PROBLEMS]
    lines = [f"{_path(item['loc']) or 'message'}: {item['msg']}" for item in problems]
    more = error.error_count() - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
