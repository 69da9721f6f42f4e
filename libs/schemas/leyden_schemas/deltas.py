"""Completions whose prompt leans on an earlier one, made whole again.

The gateway stores of a prompt only what its rollout has not logged yet, so that the log grows with what is
new in each turn. Whoever reads a rollout in order keeps its completions whole and resolves the next one
from them.
"""

from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from leyden_schemas.base import JsonObject
from leyden_schemas.events import CompletionRecorded, PromptBase
from leyden_schemas.events import Protocol as ApiProtocol

CONVERSATION = {
    ApiProtocol.CHAT: "messages",
    ApiProtocol.MESSAGES: "messages",
    ApiProtocol.RESPONSES: "input",
    ApiProtocol.COMPLETIONS: "prompt",
}
"""The field of a request that grows from turn to turn: a list, or a text."""


class UnknownBase(LookupError):
    """The base is not known to the reader, or holds less than the record takes from it."""


class WholePrompt(Protocol):
    """What a base must tell: a completion, or a step made of one, with its prompt expanded."""

    @property
    def prompt_token_ids(self) -> list[int]:
        """All ids of the prompt."""

    @property
    def token_ids(self) -> list[int]:
        """The sampled ids."""

    @property
    def request(self) -> JsonObject:
        """All fields of the request."""


def expand(record: CompletionRecorded, lookup: Callable[[UUID], WholePrompt | None]) -> CompletionRecorded:
    """The record with its whole prompt and request, and without ``base``; itself if it has none.

    ``lookup`` finds an earlier completion of the same attempt that is itself whole. Raises ``UnknownBase``.
    """
    if record.base is None:
        return record
    base = lookup(record.base.completion_id)
    if base is None:
        raise UnknownBase(
            f"completion {record.completion_id} leans on {record.base.completion_id}, which is not known"
        )
    prompt = _ids(record, record.base, base)
    request = _request(record, record.base, base.request)
    return record.model_copy(update={"base": None, "prompt_token_ids": prompt, "request": request})


def _ids(record: CompletionRecorded, delta: PromptBase, base: WholePrompt) -> list[int]:
    ids = base.prompt_token_ids
    if delta.tokens > len(ids):
        ids = ids + base.token_ids
    if delta.tokens > len(ids):
        raise _lacks(record, f"{len(ids)} of {delta.tokens} tokens")
    return ids[: delta.tokens] + record.prompt_token_ids


def _request(record: CompletionRecorded, delta: PromptBase, base: JsonObject) -> JsonObject:
    if missing := [name for name in delta.fields if name not in base]:
        raise _lacks(record, f"no {', '.join(missing)}")
    request = {name: base[name] for name in delta.fields} | record.request
    if delta.items:
        name = CONVERSATION[record.protocol]
        request[name] = _joined(record, delta.items, base.get(name), record.request.get(name))
    return request


def _joined(record: CompletionRecorded, items: int, base: Any, rest: Any) -> Any:
    match base, rest:
        case (list(), list()) | (str(), str()) if items <= len(base):
            return base[:items] + rest
    raise _lacks(record, f"no conversation of {items} items")


def _lacks(record: CompletionRecorded, what: str) -> UnknownBase:
    base = record.base.completion_id if record.base else None
    return UnknownBase(f"completion {record.completion_id} leans on {base}, which has {what}")
