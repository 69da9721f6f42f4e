"""What the gateway stores of a prompt, read back as a reader of the log would."""

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from prometheus_client import REGISTRY

from leyden_gateway.recording.delta import BRANCHES, Attempt, Base, Conversations, Request, Shrunk
from leyden_platform.testing.rollouts import TOOL
from leyden_schemas import (
    CONVERSATION,
    CompletionRecorded,
    JsonObject,
    PromptBase,
    Protocol,
    Topics,
    cause_id,
    decode,
    expand,
)

COMPACT, SPACED = (",", ":"), (", ", ": ")
ATTEMPT: Attempt = (UUID(int=1), 1)
SYSTEM: JsonObject = {"role": "system", "content": "You are a careful calculator. " * 10}
ASKED: JsonObject = {"role": "user", "content": "2 + 2"}
ANSWERED: JsonObject = {"role": "assistant", "content": "4"}
THANKS: JsonObject = {"role": "user", "content": "Thanks."}


def raw(value: object, separators: tuple[str, str] = COMPACT) -> bytes:
    """JSON text."""
    return json.dumps(value, separators=separators, ensure_ascii=False).encode()


def request_of(payload: JsonObject, separators: tuple[str, str] = COMPACT) -> Request:
    """A request's fields as the gateway has them."""
    return {name: Raw(raw(value, separators)) for name, value in payload.items()}


@dataclass
class Log:
    """Records calls as the gateway does, and reads each back at once."""

    conversations: Conversations = field(
        default_factory=lambda: Conversations(memory_bytes=1 << 20, horizon_s=3600)
    )
    whole: dict[UUID, CompletionRecorded] = field(default_factory=dict)
    stored: list[bytes] = field(default_factory=list)

    def call(
        self,
        ids: Sequence[int],
        sampled: Sequence[int],
        payload: JsonObject,
        *,
        attempt: Attempt = ATTEMPT,
        protocol: Protocol = Protocol.CHAT,
        separators: tuple[str, str] = COMPACT,
        facts: Mapping[str, Any] | None = None,
    ) -> Shrunk:
        """Store one completion, check that it reads as it was, and acknowledge it."""
        completion_id, prompt = uuid4(), raw(list(ids), separators)
        shrunk = self.conversations.shrink(
            attempt, prompt, request_of(payload, separators), CONVERSATION[protocol]
        )
        self.stored.append(self.record(completion_id, attempt, protocol, shrunk, sampled, facts or {}))
        record: CompletionRecorded = decode(Topics.EVENTS, self.stored[-1])
        read = expand(record, self.whole.get)
        assert read.prompt_token_ids == list(ids)
        assert read.request == payload
        assert shrunk.tokens == len(ids)
        self.whole[completion_id] = read
        self.conversations.remember(shrunk, completion_id, raw(list(sampled), separators))
        return shrunk

    @staticmethod
    def record(
        completion_id: UUID,
        attempt: Attempt,
        protocol: Protocol,
        shrunk: Shrunk,
        sampled: Sequence[int],
        facts: Mapping[str, Any],
    ) -> bytes:
        """The bytes of a record."""
        return msgspec.json.encode(
            {
                "type": "completion_recorded",
                "event_id": cause_id("completion_recorded", completion_id),
                "rollout_id": attempt[0],
                "attempt": attempt[1],
                "occurred_at": "2026-01-01T00:00:00Z",
                "completion_id": completion_id,
                "protocol": protocol,
                "policy": "calculator",
                "base": shrunk.base,
                "request": shrunk.request,
                "prompt_token_ids": Raw(shrunk.prompt_ids),
                "token_ids": list(sampled),
                **facts,
            }
        )

    @property
    def last(self) -> UUID:
        """The completion recorded last."""
        return list(self.whole)[-1]


def plain(request: Request) -> JsonObject:
    """The fields as values."""
    return {name: msgspec.json.decode(value) for name, value in request.items()}


def test_a_base_is_written_as_the_schema_reads_it() -> None:
    base = Base(uuid4(), 5, 2, ["model", "tools"])
    assert PromptBase.model_validate_json(msgspec.json.encode(base)).model_dump() == {
        "completion_id": base.completion_id,
        "tokens": 5,
        "items": 2,
        "fields": ("model", "tools"),
    }
    assert msgspec.json.encode(Base(UUID(int=0))) == b'{"completion_id":"%s"}' % str(UUID(int=0)).encode()


def test_the_first_prompt_is_stored_whole() -> None:
    shrunk = Log().call([1, 2], [3], {"model": "m", "messages": [SYSTEM, ASKED]})
    assert shrunk.base is None
    assert shrunk.prompt_ids == b"[1,2]"
    assert plain(shrunk.request) == {"model": "m", "messages": [SYSTEM, ASKED]}


def test_the_next_turn_stores_what_is_new() -> None:
    log, rest = Log(), {"model": "m", "tools": [TOOL], "seed": 1}
    log.call([1, 2], [3, 4], rest | {"messages": [SYSTEM, ASKED]})

    shrunk = log.call(
        [1, 2, 3, 4, 5], [6], rest | {"messages": [SYSTEM, ASKED, ANSWERED, THANKS], "seed": 2, "n": 1}
    )

    assert shrunk.base == Base(next(iter(log.whole)), tokens=4, items=2, fields=["model", "tools"])
    assert shrunk.prompt_ids == b"[5]"
    assert plain(shrunk.request) == {"seed": 2, "messages": [ANSWERED, THANKS], "n": 1}


def test_a_turn_goes_on_from_the_one_before() -> None:
    log = Log()
    for turn in range(1, 6):
        log.call(range(10 * turn), range(10 * turn, 10 * turn + 5), {"messages": [SYSTEM] * turn})
    before = log.last
    assert log.call(range(60), [], {"messages": [SYSTEM] * 6}).base == Base(before, tokens=55, items=5)


def test_a_tail_that_was_tokenised_anew_is_stored_again() -> None:
    log = Log()
    log.call([1, 2], [3, 45], {"messages": [SYSTEM, ASKED]})
    shrunk = log.call([1, 2, 3, 4, 5, 6], [], {"messages": [SYSTEM, ASKED, ANSWERED]})
    assert shrunk.base is not None
    assert (shrunk.base.tokens, shrunk.prompt_ids) == (3, b"[4,5,6]")


def test_a_conversation_that_was_shortened_shares_its_beginning() -> None:
    log = Log()
    log.call(range(100), [5], {"messages": [SYSTEM, ASKED, ANSWERED, THANKS]})
    shrunk = log.call([*range(50), 7], [], {"messages": [SYSTEM, THANKS]})
    assert shrunk.base is not None
    assert (shrunk.base.tokens, shrunk.base.items) == (50, 1)
    assert (shrunk.prompt_ids, plain(shrunk.request)) == (b"[7]", {"messages": [THANKS]})


def test_a_call_that_is_repeated_stores_nothing_of_its_prompt() -> None:
    log, payload = Log(), {"model": "m", "messages": [SYSTEM, ASKED]}
    log.call([1, 2], [3], payload)
    shrunk = log.call([1, 2], [4], payload)
    assert shrunk.base == Base(next(iter(log.whole)), 2, 2, ["model"])
    assert (shrunk.prompt_ids, plain(shrunk.request)) == (b"[]", {"messages": []})


def test_agents_that_take_turns_each_go_on_from_their_own() -> None:
    log = Log()
    for agent in (100, 200):
        log.call([agent, 1], [2], {"messages": [SYSTEM, {"role": "user", "content": str(agent)}]})
    for agent, other in ((100, 0), (200, 1)):
        shrunk = log.call(
            [agent, 1, 2, 3],
            [4],
            {"messages": [SYSTEM, {"role": "user", "content": str(agent)}, THANKS]},
        )
        assert shrunk.base == Base(list(log.whole)[other], 3, 2)


def test_another_spacing_is_only_less_shared() -> None:
    log = Log()
    log.call(range(100, 300), [7], {"messages": [SYSTEM, ASKED], "tools": [TOOL, TOOL]})
    shrunk = log.call(
        [*range(100, 300), 7, 8],
        [],
        {"messages": [SYSTEM, ASKED, ANSWERED], "tools": [TOOL, TOOL]},
        separators=SPACED,
    )
    assert shrunk.base is None
    same = log.call(
        [*range(100, 300), 7, 8, 9], [], {"messages": [SYSTEM, ASKED, ANSWERED]}, separators=SPACED
    )
    assert same.base is not None
    assert (same.base.tokens, same.base.items) == (202, 3)


def test_what_saves_little_is_stored_whole() -> None:
    log = Log()
    log.call([1], [2], {"messages": [ASKED]})
    assert log.call([1, 2, 3], [], {"messages": [ASKED, ANSWERED]}).base is None


@pytest.mark.parametrize(
    ("protocol", "name", "first", "second", "items", "rest"),
    [
        (Protocol.COMPLETIONS, "prompt", "Once " * 60, "Once " * 61, 300, "Once "),
        (Protocol.COMPLETIONS, "prompt", list(range(100)), list(range(101)), 100, [100]),
        (Protocol.RESPONSES, "input", "Why? " * 60, "Why? " * 61, 300, "Why? "),
        (Protocol.RESPONSES, "input", [SYSTEM], [SYSTEM, ASKED], 1, [ASKED]),
        (Protocol.MESSAGES, "messages", [SYSTEM], [SYSTEM, ASKED], 1, [ASKED]),
    ],
)
def test_every_protocol_has_its_conversation(
    protocol: Protocol, name: str, first: Any, second: Any, items: int, rest: Any
) -> None:
    log = Log()
    log.call([], [], {name: first}, protocol=protocol)
    shrunk = log.call([], [], {name: second}, protocol=protocol)
    assert shrunk.base == Base(next(iter(log.whole)), items=items)
    assert plain(shrunk.request) == {name: rest}


def test_a_conversation_in_another_field_shares_nothing() -> None:
    log = Log()
    log.call([], [], {"messages": [SYSTEM, SYSTEM]})
    assert log.call([], [], {"input": [SYSTEM, SYSTEM]}, protocol=Protocol.RESPONSES).base is None


@pytest.mark.parametrize("odd", [None, 5, {"role": "user"}])
def test_what_is_no_conversation_is_a_field_like_others(odd: Any) -> None:
    log = Log()
    for _ in range(2):
        log.call(range(100), [], {"messages": odd, "tools": [TOOL]})


def test_alternatives_of_one_call_share_their_prompt() -> None:
    log, payload = Log(), {"messages": [SYSTEM, ASKED]}
    for sampled in ([7], [8], [9]):
        log.call(range(100), sampled, payload)
    shrunk = log.call([*range(100), 8, 1], [], {"messages": [SYSTEM, ASKED, ANSWERED]})
    assert shrunk.base == Base(list(log.whole)[1], tokens=101, items=2)


def test_another_attempt_starts_anew() -> None:
    log = Log()
    log.call(range(100), [], {"messages": [SYSTEM]})
    assert log.call(range(100), [], {"messages": [SYSTEM]}, attempt=(ATTEMPT[0], 2)).base is None
    assert log.call(range(100), [], {"messages": [SYSTEM]}).base is not None


def test_what_was_not_acknowledged_is_no_base() -> None:
    conversations = Conversations(memory_bytes=1 << 20, horizon_s=60)
    request = request_of({"messages": [SYSTEM]})
    for _ in range(2):
        assert conversations.shrink(ATTEMPT, raw(list(range(100))), request, "messages").base is None


def test_a_record_without_prompt_is_not_kept() -> None:
    log = Log()
    log.call([], [], {})
    assert log.conversations.size == 0


def forgotten(reason: str) -> float:
    """How often something was forgotten for this reason."""
    return REGISTRY.get_sample_value("leyden_gateway_delta_forgotten_total", {"reason": reason}) or 0.0


def test_after_the_horizon_a_prompt_is_stored_whole() -> None:
    now = [0.0]
    log = Log(Conversations(memory_bytes=1 << 20, horizon_s=60, clock=lambda: now[0]))
    payload: JsonObject = {"messages": [SYSTEM]}
    log.call(range(100), [], payload)
    now[0] = 59.0
    assert log.call(range(101), [], payload).base is not None
    now[0], before = 61.0, forgotten("horizon")
    assert log.call(range(102), [], payload).base is None  # the chain it would join began at 0
    assert forgotten("horizon") == before + 1
    now[0] = 119.0
    assert log.call(range(103), [], payload).base is not None


def test_a_forgotten_attempt_begins_with_a_whole_prompt() -> None:
    log, before = Log(), forgotten("session_over")
    log.call([1, 2], [3], {"messages": [SYSTEM, ASKED]})
    log.conversations.forget(ATTEMPT)
    log.conversations.forget((UUID(int=9), 1))
    assert (log.conversations.size, forgotten("session_over")) == (0, before + 1)
    again = log.call([1, 2, 3, 4], [5], {"messages": [SYSTEM, ASKED, ANSWERED, THANKS]})
    assert again.base is None


def test_a_call_under_way_at_the_horizon_does_not_prolong_its_chain() -> None:
    now = [0.0]
    log = Log(Conversations(memory_bytes=1 << 20, horizon_s=60, clock=lambda: now[0]))
    payload: JsonObject = {"messages": [SYSTEM]}
    log.call(range(100), [], payload)
    under_way = log.conversations.shrink(ATTEMPT, raw(list(range(101))), request_of(payload), "messages")
    assert under_way.base is not None
    now[0] = 61.0
    log.conversations.remember(under_way, uuid4(), b"[]")
    assert log.call(range(102), [], payload).base is None
    log.conversations.remember(under_way, uuid4(), b"[]")
    before = log.last
    assert log.call(range(103), [], payload).base == Base(before, tokens=102, items=1)


def test_memory_is_bounded_and_the_least_recent_attempt_is_forgotten() -> None:
    log, before = Log(Conversations(memory_bytes=12_000, horizon_s=60)), forgotten("memory")
    attempts = [(uuid4(), 1) for _ in range(4)]
    for attempt in attempts[:3]:
        log.call(range(500), [], {"messages": [SYSTEM]}, attempt=attempt)
    log.call(range(501), [], {"messages": [SYSTEM]}, attempt=attempts[0])
    log.call(range(500), [], {"messages": [SYSTEM]}, attempt=attempts[3])

    assert 9_000 < log.conversations.size <= 12_000
    assert forgotten("memory") == before + 1
    found = [log.conversations.shrink(one, raw(list(range(600))), {}, None).base for one in attempts]
    assert [base is not None for base in found] == [True, False, True, True]


def test_a_prompt_larger_than_the_memory_is_not_kept() -> None:
    log = Log(Conversations(memory_bytes=2_000, horizon_s=60))
    log.call(range(1000), [], {"messages": [SYSTEM]})
    assert log.conversations.size == 0
    assert log.call(range(1000), [], {"messages": [SYSTEM]}).base is None


def test_an_attempt_keeps_only_its_last_branches() -> None:
    log, before = Log(), forgotten("branches")
    for branch in range(BRANCHES + 1):
        log.call([branch, *range(200)], [], {"messages": [SYSTEM, branch]})
    assert forgotten("branches") == before + 1
    assert log.call([0, *range(201)], [], {"messages": [SYSTEM, 0]}).base is None
    assert log.call([BRANCHES, *range(201)], [], {"messages": [SYSTEM, BRANCHES]}).base is not None


def test_a_branch_in_use_is_kept() -> None:
    log = Log()
    for branch in range(2 * BRANCHES):
        log.call([branch, *range(200)], [], {"messages": [SYSTEM, branch]})
        shrunk = log.call([1000, *range(200 + branch)], [], {"messages": [SYSTEM, 1000]})
        assert (shrunk.base is not None) == (branch > 0)


def test_the_body_of_a_request_is_not_kept_for_its_pieces() -> None:
    body = raw({"messages": [SYSTEM], "model": "m" * 300, "large": "x" * 1000})
    unused = sys.getrefcount(body)
    conversations = Conversations(memory_bytes=1 << 20, horizon_s=60)
    request = msgspec.json.decode(body, type=dict[str, Raw])
    assert sys.getrefcount(body) > unused
    conversations.remember(conversations.shrink(ATTEMPT, b"[1,2]", request, "messages"), uuid4(), b"[3]")
    del request
    assert sys.getrefcount(body) == unused


@st.composite
def calls(draw: st.DrawFn) -> list[tuple[list[int], list[int], JsonObject, tuple[str, str], int]]:
    """A few conversations of one rollout that grow, fork, are cut short or told with other tokens."""
    words, separators = st.sampled_from(["a" * 60, "é😀" * 20, '"],', ""]), st.sampled_from([COMPACT, SPACED])
    message = st.builds(lambda word: {"role": "user", "content": word}, words)
    numbers = st.lists(st.sampled_from([1, 12, 123, 3, 34, 99_999]), max_size=40)
    told: list[tuple[list[int], list[int], JsonObject, tuple[str, str], int]] = []
    for _ in range(draw(st.integers(1, 8))):
        goes_on = draw(st.booleans()) and len(told) > 0
        earlier = draw(st.sampled_from(told)) if goes_on else None
        ids, messages = draw(numbers), draw(st.lists(message, max_size=4))
        if earlier:
            before = earlier[0] + earlier[1]
            ids = before[: draw(st.integers(0, len(before)))] + ids
            old = earlier[2]["messages"]
            messages = old[: draw(st.integers(0, len(old)))] + messages
        payload: JsonObject = {"messages": messages}
        if draw(st.booleans()):
            payload["tools"] = [TOOL]
        told.append((ids, draw(numbers), payload, draw(separators), draw(st.sampled_from([1, 1, 1, 2]))))
    return told


@settings(deadline=None)
@given(told=calls())
def test_whatever_agents_do_is_read_back_as_it_was(
    told: list[tuple[list[int], list[int], JsonObject, tuple[str, str], int]],
) -> None:
    log = Log()
    for ids, sampled, payload, separators, attempt in told:
        log.call(ids, sampled, payload, separators=separators, attempt=(ATTEMPT[0], attempt))


@settings(deadline=None)
@given(told=calls())
def test_memory_never_exceeds_its_bound(
    told: list[tuple[list[int], list[int], JsonObject, tuple[str, str], int]],
) -> None:
    log = Log(Conversations(memory_bytes=5_000, horizon_s=60))
    for ids, sampled, payload, separators, attempt in told:
        log.call(ids, sampled, payload, separators=separators, attempt=(ATTEMPT[0], attempt))
        assert 0 <= log.conversations.size <= 5_000


WORDS = (
    "the",
    "order",
    "of",
    "a",
    "log",
    "is",
    "what",
    "its",
    "reader",
    "sees",
    "nothing",
    "sampled",
    "lost",
)
TURNS, SAMPLED, RESULT, OPENING = 100, 100, 220, 700


class Trajectory:
    """A hundred turns of an agent that calls tools: 32k tokens in the end, all of them different."""

    def __init__(self, seed: int = 7) -> None:
        self.random = random.Random(seed)
        self.ids = self.tokens(OPENING)
        self.messages: list[JsonObject] = [
            {"role": "system", "content": self.words(300)},
            {"role": "user", "content": self.words(50)},
        ]
        self.rest: JsonObject = {
            "model": "calculator",
            "tools": [self.tool(name) for name in ("search", "read", "write", "run")],
            "tool_choice": "auto",
            "temperature": 1.0,
            "max_tokens": 512,
        }
        self.unique_bytes = len(raw(self.rest | {"messages": self.messages})) + len(raw(self.ids))
        """Of every message, token and fact of a call, each once."""
        self.whole_bytes = 0
        """Of records that all hold their whole prompt."""

    def tokens(self, count: int) -> list[int]:
        """Ids as a vocabulary of 150,000 gives them."""
        return [self.random.randrange(150_000) for _ in range(count)]

    def words(self, count: int) -> str:
        """About as many tokens of text."""
        return " ".join(self.random.choice(WORDS) for _ in range(count))

    def tool(self, name: str) -> JsonObject:
        """A schema of about 80 tokens."""
        parameters = {f"p{i}": {"type": "string", "description": self.words(12)} for i in range(4)}
        return {
            "type": "function",
            "function": {
                "name": name,
                "description": self.words(20),
                "parameters": {"type": "object", "properties": parameters},
            },
        }

    def turn(self, log: Log, number: int) -> Shrunk:
        """The agent asks, the model calls a tool, the tool answers."""
        sampled = self.tokens(SAMPLED)
        logprobs = [-self.random.random() for _ in sampled]
        calls = [
            {
                "id": f"call_{number:024d}",
                "type": "function",
                "function": {"name": "search", "arguments": json.dumps({"query": self.words(80)})},
            }
        ]
        message: JsonObject = {"role": "assistant", "content": None, "tool_calls": calls}
        response = {
            "id": f"chatcmpl-{number:032d}",
            "object": "chat.completion",
            "created": 1_767_225_600,
            "model": "calculator",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": len(self.ids), "completion_tokens": SAMPLED},
        }
        facts = {
            "tenant": "default",
            "run": "default",
            "agent": "main",
            "operation": None,
            "mode": "training",
            "session": None,
            "user": None,
            "client": "OpenAI/Python 2.8.0",
            "retry_of": None,
            "streamed": False,
            "status": "ok",
            "http_status": 200,
            "error": None,
            "untrainable": None,
            "version": 3,
            "replica": "http://inference-0:8001",
            "response": response,
            "logprobs": logprobs,
            "finish_reason": "tool_calls",
            "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "overridden": {"temperature": 0.7}},
            "usage": {"prompt_tokens": len(self.ids), "completion_tokens": SAMPLED},
            "timings": {"queue_s": 0.000412, "first_token_s": None, "total_s": 1.482113},
        }
        payload = self.rest | {"messages": self.messages}
        shrunk = log.call(self.ids, sampled, payload, facts=facts)
        self.unique_bytes += len(raw(sampled)) + len(raw(facts))
        self.whole_bytes += len(raw(payload)) + len(raw(self.ids)) + len(raw(sampled)) + len(raw(facts))
        if number < TURNS - 1:
            self.goes_on(sampled, message, calls[0]["id"])
        return shrunk

    def goes_on(self, sampled: list[int], message: JsonObject, call_id: object) -> None:
        """The tool's result is what the next prompt adds."""
        result = {"role": "tool", "tool_call_id": call_id, "content": self.words(RESULT)}
        added = self.tokens(RESULT)
        self.ids = self.ids + sampled + added
        self.messages = [*self.messages, message, result]
        self.unique_bytes += len(raw(added)) + len(raw(result))


def test_a_hundred_turns_cost_what_they_add() -> None:
    trajectory, log = Trajectory(), Log(Conversations(memory_bytes=1 << 22, horizon_s=3600))

    prompts = [trajectory.turn(log, number) for number in range(TURNS)]

    unique_tokens, stored = len(trajectory.ids) + SAMPLED, sum(map(len, log.stored))
    assert 32_000 < unique_tokens < 33_000
    assert sum(len(json.loads(one.prompt_ids)) for one in prompts) + TURNS * SAMPLED == unique_tokens
    assert stored / trajectory.unique_bytes < 1.2
    assert trajectory.whole_bytes / trajectory.unique_bytes > 20
    assert log.conversations.size < 1 << 20
