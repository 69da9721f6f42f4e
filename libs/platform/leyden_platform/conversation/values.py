"""The one shape of a step, its tool calls and what came back: values that rules and rewards look at."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from leyden_platform.conversation.outcomes import says_error


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool answered. ``failed`` is what the protocol or a span says; None leaves it to the text."""

    text: str
    failed: bool | None = None


class Outcome(NamedTuple):
    """How one call of a tool ended."""

    tool: str
    worked: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of a response; ``result`` is None when the agent sent none."""

    name: str
    arguments: str
    """As the model wrote them."""
    parsed: Mapping[str, Any] | None
    """The arguments as an object, None when they are no JSON object."""
    fingerprint: tuple[str, str]
    """Equal for calls of one tool with equal arguments, however they are spaced."""
    result: Result | None = None

    @property
    def worked(self) -> bool | None:
        """Whether the tool did what it was asked; None when nothing tells."""
        if self.result is None:
            return None
        failed = self.result.failed
        return not (says_error(self.result.text) if failed is None else failed)


@dataclass(frozen=True, slots=True)
class Turn:
    """One step. When ``answered`` is false, no answer reached the caller and the fields of one are empty."""

    agent: str
    answered: bool
    text: str = ""
    calls: tuple[Call, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    """Of every call whose outcome is known, also of those that only a tool span tells of."""
    refused: bool = False
    """The protocol itself says that the model refused, or that a filter stopped it."""
    finish_reason: str | None = None
    tokens: int = 0
    """Sampled tokens; 0 when nobody counted."""
    tools: Mapping[str, Mapping[str, Any]] | None = None
    """Parameter schema by name of the tools on offer; None when the request is not known."""
    limit: int | None = None
    """How many tokens the request allowed."""
    serving_s: float | None = None
    """Seconds that the server took, without the time a call waited for one."""
    state: Hashable = None
    """What the agent was told since its own last words, or what a signal ``state`` called it."""
    reaction: str | None = None
    """What the user said next, when the same conversation goes on; None when it does not."""
    cancelled: bool = False
    """The caller hung up before the end of the answer."""
