"""What state of the world a step saw: steps of a group that saw the same one are alternatives of each other.

The agent may say it: a signal ``state`` on the completion, whose text names the state. Otherwise it is
the observation at the end of the recorded request: everything after the model's last own message (tool
results, the user's next words; at the first turn the whole prompt). Call ids are left out, because they
differ from one rollout to the next. What was said before is not part of it, so two ways to the same
observation meet; an agent whose observations say too little ("ok") should send the signal.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from leyden_schemas import JsonObject, Step

SIGNAL = "signal.state"
_CONVERSATIONS = ("messages", "input", "prompt")
_OF_ONE_CALL = frozenset({"id", "call_id", "tool_call_id", "tool_use_id", "cache_control"})


def state_of(step: Step) -> bytes | None:
    """A digest that is equal for equal states of the same agent; None when nothing was observed."""
    named = next((term.feedback for term in step.terms if term.name == SIGNAL and term.feedback), None)
    seen: Any = named if named is not None else observation(step.request)
    if not seen:
        return None
    kind = "named" if named is not None else "observed"
    text = json.dumps([step.agent, kind, seen], sort_keys=True, separators=(",", ":"), default=str)
    return blake2b(text.encode(), digest_size=16).digest()


def observation(request: JsonObject) -> Any:
    """What the model was told last: a text, or the items after its own last one; None without any."""
    conversation = next((request[name] for name in _CONVERSATIONS if request.get(name)), None)
    if not isinstance(conversation, list):
        return conversation
    start = len(conversation)
    while start and not _said_by_the_model(conversation[start - 1]):
        start -= 1
    return _plain(conversation[start:])


def _said_by_the_model(item: object) -> bool:
    """Chat and Messages mark it by role; Responses also has items for calls and reasoning."""
    if not isinstance(item, dict):
        return False
    kind = str(item.get("type", ""))
    return item.get("role") == "assistant" or kind == "reasoning" or kind.endswith("_call")


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items() if key not in _OF_ONE_CALL}
        case list():
            return [_plain(item) for item in value]
    return value


def states_of(steps: Sequence[Step]) -> tuple[bytes | None, ...]:
    """The state of every step."""
    return tuple(map(state_of, steps))
