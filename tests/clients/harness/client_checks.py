"""What must hold of every recorded completion, whatever protocol and library it came through."""

from typing import Any

from client_stack import Caller, Stack
from replica_script import Turn, ids, logprob, prompt_tokens
from scripted_replica import ScriptedReplica

from leyden_schemas import CompletionRecorded, CompletionStatus, Protocol

Json = dict[str, Any]


def agreed(
    stack: Stack,
    caller: Caller,
    replica: ScriptedReplica,
    *turns: Turn,
    protocol: Protocol = Protocol.CHAT,
) -> list[CompletionRecorded]:
    """The rollout's records, one for each turn: exactly what the replica was asked, and what it sampled."""
    records = stack.records(caller)
    assert len(records) == len(replica.seen) == len(turns)
    for record, seen, turn in zip(records, replica.seen, turns, strict=True):
        assert (record.status, record.untrainable, record.http_status) == (CompletionStatus.OK, None, 200)
        assert (record.protocol, record.finish_reason) == (protocol, turn.reason())
        assert record.prompt_token_ids == ids(prompt_tokens(seen.request))
        assert record.token_ids == ids(turn.tokens())
        assert record.logprobs == [logprob(token) for token in turn.tokens()]
        assert record.streamed == bool(seen.request.get("stream"))
        if protocol is Protocol.CHAT:
            assert record.request["messages"] == seen.request["messages"]
            assert record.request.get("tools") == seen.request.get("tools")
    assert len({record.completion_id for record in records}) == len(turns)
    return records


def extends(earlier: CompletionRecorded, later: CompletionRecorded) -> bool:
    """Whether the later prompt begins with the earlier one and what was sampled then."""
    told = earlier.prompt_token_ids + earlier.token_ids
    return later.prompt_token_ids[: len(told)] == told


def without(answer: Json, *names: str) -> Json:
    """The answer without some of its own fields."""
    return {name: value for name, value in answer.items() if name not in names}


def leaks(answer: Any) -> bool:
    """Whether anything in an answer is called after what only the gateway asked for."""
    if isinstance(answer, dict):
        return not {"token_ids", "prompt_token_ids"}.isdisjoint(answer) or any(map(leaks, answer.values()))
    return isinstance(answer, list) and any(map(leaks, answer))
