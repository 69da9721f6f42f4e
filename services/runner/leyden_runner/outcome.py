"""How an attempt ended, and what that means: the agent's own doing, out of time, or nobody's fault.

Infrastructure failures are retried and never rewarded, so the line is drawn here and nowhere else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from pydantic_core import from_json

from leyden_schemas import Outcome

_INFRASTRUCTURE = {
    "openai": {"APIConnectionError", "InternalServerError"},
    "anthropic": {"APIConnectionError", "InternalServerError"},
    "httpx": {"TransportError"},
    "aiohttp": {"ClientConnectionError"},
    "requests": {"ConnectionError"},
}
_HTTP_ERRORS = {"HTTPStatusError", "HTTPError", "APIStatusError", "ClientResponseError"}
EX_TEMPFAIL = 75
"""The exit status with which a command says "not my fault, try again" (sysexits.h)."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The agent returned ``output``."""

    output: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """One error of a chain: its class names with their modules, most derived first, and its HTTP status."""

    types: Sequence[str]
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Raised:
    """The agent raised; ``chain`` is the error and what caused it."""

    text: str
    chain: Sequence[Failure] = ()


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended with ``status`` and without a result."""

    status: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The process was ended by a signal that the runner did not send."""

    signal: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """The agent gave a result that cannot be taken; ``text`` says why."""

    text: str


@dataclass(frozen=True, slots=True)
class OutOfTime:
    """The deadline passed, and the runner killed the agent."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """The agent could not be started, or was stopped for a reason of the runner's; ``text`` says which.

    ``excused`` when it costs none of the rollout's tries, because it will pass and nothing was tried.
    """

    text: str
    excused: bool = False


def returned(output: Any) -> Returned | Unusable:
    """The output as messages can hold it: a question mark for half a character, and no bottomless nesting."""
    try:
        written = json.dumps({"output": output}, ensure_ascii=False).encode(errors="replace")
        return Returned(from_json(written)["output"])
    except (ValueError, RecursionError) as error:
        return Unusable(f"the agent's output cannot be sent on: {error}")


Ending = Returned | Raised | Exited | Killed | Unusable | OutOfTime | NotExecuted


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is reported of an attempt."""

    outcome: Outcome
    output: Any = None
    error: str | None = None


def judge(ending: Ending) -> Verdict:
    """The outcome that an ending means."""
    match ending:
        case Returned(output):
            return Verdict(Outcome.SUCCEEDED, output=output)
        case Raised(text, chain):
            return Verdict(_blame(chain), error=text)
        case Exited(status):
            blame = Outcome.INFRASTRUCTURE_FAILED if status == EX_TEMPFAIL else Outcome.AGENT_FAILED
            return Verdict(blame, error=f"the agent's process exited with status {status} without a result")
        case Killed(signal):
            return Verdict(Outcome.AGENT_FAILED, error=f"the agent's process was killed by signal {signal}")
        case Unusable(text):
            return Verdict(Outcome.AGENT_FAILED, error=text)
        case OutOfTime(timeout_s):
            return Verdict(Outcome.TIMED_OUT, error=f"the agent did not finish within {timeout_s:g} s")
        case NotExecuted(text=text):
            return Verdict(Outcome.INFRASTRUCTURE_FAILED, error=text)
    assert_never(ending)


def _blame(chain: Sequence[Failure]) -> Outcome:
    """Infrastructure when any error of the chain says that the gateway was unreachable or answered 5xx."""
    infrastructure = any(_unreachable(failure) or _server_error(failure) for failure in chain)
    return Outcome.INFRASTRUCTURE_FAILED if infrastructure else Outcome.AGENT_FAILED


def _unreachable(failure: Failure) -> bool:
    return any(
        name.rpartition(".")[2] in _INFRASTRUCTURE.get(name.partition(".")[0], ()) for name in failure.types
    )


def _server_error(failure: Failure) -> bool:
    if failure.http_status is None or failure.http_status < 500:
        return False
    return any(name.rpartition(".")[2] in _HTTP_ERRORS for name in failure.types)
