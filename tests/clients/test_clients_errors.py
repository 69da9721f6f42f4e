"""What goes wrong reaches each client as an exception of its own type, with the gateway's words, once."""

import pytest
from client_checks import Json
from client_programs import ClientProgram, ClientRaised, Programs
from client_stack import Caller, Stack
from replica_script import Turn, ids
from scripted_replica import ScriptedReplica

from leyden_schemas import CompletionStatus, Protocol

pytestmark = pytest.mark.kafka

TALK = [{"role": "user", "content": "What is 3 * 4?"}]
CHAT = {"model": "m", "messages": TALK}
MESSAGE = {"model": "m", "messages": TALK, "max_tokens": 16}
CALLS: dict[str, tuple[str, str, Json]] = {
    "openai chat": ("use_openai", "chat", CHAT),
    "openai chat, streamed": ("use_openai", "chat_stream", CHAT),
    "openai completions": ("use_openai", "complete", {"model": "m", "prompt": "3 * 4 ="}),
    "openai responses": ("use_openai", "respond", {"model": "m", "input": "3 * 4?"}),
    "openai responses, streamed": ("use_openai", "respond_stream", {"model": "m", "input": "3 * 4?"}),
    "openai embeddings": ("use_openai", "embed", {"model": "m", "input": "one"}),
    "anthropic": ("use_anthropic", "message", MESSAGE),
    "anthropic, streamed": ("use_anthropic", "stream_helper", MESSAGE),
    "langchain": ("use_langchain", "invoke", {"text": "3 * 4?"}),
    "autogen": ("use_autogen", "run", {"task": "3 * 4?"}),
    "openai-agents": ("use_openai_agents", "run", {"text": "3 * 4?"}),
    "litellm": ("use_litellm", "complete", {"messages": TALK}),
    "dspy": ("use_dspy", "predict", {"question": "3 * 4?"}),
}
PROTOCOLS = {
    "openai chat": Protocol.CHAT,
    "openai responses": Protocol.RESPONSES,
    "anthropic": Protocol.MESSAGES,
}
STREAMS = {
    "openai chat, streamed": Protocol.CHAT,
    "openai responses, streamed": Protocol.RESPONSES,
    "anthropic, streamed": Protocol.MESSAGES,
}


KINDS = {
    "dspy": {
        "NotFoundError": "LMInvalidRequestError",
        "AuthenticationError": "LMAuthError",
        "RateLimitError": "LMBillingError",
        "BadRequestError": "LMInvalidRequestError",
    },
    "litellm": {"PermissionDeniedError": "APIError"},
}
"""What a library calls the errors that OpenAI's and Anthropic's clients name."""


def attempt(program: Programs, who: str, caller: Caller) -> object:
    """Call the gateway as ``who``, with the library's own settings for retries."""
    name, case, arguments = CALLS[who]
    api = caller.anthropic if who.startswith("anthropic") else caller.openai
    return program(name).run(case, api=api, **arguments)


def refused(program: Programs, who: str, caller: Caller, kind: str, words: str) -> None:
    """The call's failure, which must be of ``kind`` and say ``words``."""
    with pytest.raises(ClientRaised, match=words) as caught:
        attempt(program, who, caller)
    assert KINDS.get(who, {}).get(kind, kind) in {name.split(".")[-1] for name in caught.value.types}


def reason(who: str, otherwise: str) -> str:
    """Why a call's record cannot be trained on: embeddings never can."""
    return "embeddings" if who == "openai embeddings" else otherwise


@pytest.mark.parametrize("who", CALLS)
def test_a_model_that_nobody_published(
    stack: Stack, replica: ScriptedReplica, program: Programs, who: str
) -> None:
    calls, caller = stack.calls(), stack.caller(ref="#canary")
    refused(program, who, caller, "NotFoundError", "canary")
    assert stack.calls() - calls == 1
    record = stack.record(caller)
    assert (record.status, record.http_status) == (CompletionStatus.ERROR, 404)
    assert record.untrainable == reason(who, "model_not_found")
    assert not replica.seen


@pytest.mark.parametrize("who", CALLS)
def test_a_forged_token(stack: Stack, replica: ScriptedReplica, program: Programs, who: str) -> None:
    calls, caller = stack.calls(), stack.caller()
    forged = caller.with_key(caller.key[:-6] + "AAAAAA")
    refused(program, who, forged, "AuthenticationError", "not a valid rollout token")
    assert stack.calls() - calls == 1
    assert not stack.records(caller)
    assert not replica.seen


@pytest.mark.parametrize("who", ["openai chat", "openai responses", "anthropic", "litellm"])
def test_the_token_of_another_rollout(
    stack: Stack, replica: ScriptedReplica, program: Programs, who: str
) -> None:
    caller = stack.caller()
    stolen = caller.with_key(stack.caller().key)
    refused(program, who, stolen, "PermissionDeniedError", "belongs to another rollout")
    assert not stack.records(caller)
    assert not replica.seen


@pytest.mark.parametrize("who", CALLS)
def test_a_spent_budget_is_not_tried_again(
    stack: Stack, replica: ScriptedReplica, program: Programs, who: str
) -> None:
    """Libraries retry 429 by default; ``x-should-retry: false`` tells those that listen not to."""
    caller = stack.caller(max_completions=1)
    program("use_openai").run("chat", api=caller.openai, **CHAT)
    calls = stack.calls()
    refused(program, who, caller, "RateLimitError", "1 completions")
    assert stack.calls() - calls == 1
    assert len(stack.records(caller)) == len(replica.seen) == 1


@pytest.mark.parametrize("who", CALLS)
def test_what_a_replica_refuses_reaches_the_client(
    stack: Stack, replica: ScriptedReplica, program: Programs, who: str
) -> None:
    replica.failures = [(400, "the prompt is too long by 7 tokens")] * 3
    caller = stack.caller()
    refused(program, who, caller, "BadRequestError", "too long by 7 tokens")
    first = stack.records(caller)[0]
    assert (first.status, first.http_status) == (CompletionStatus.ERROR, 400)
    assert first.untrainable == reason(who, "upstream_error")
    assert first.error == "the prompt is too long by 7 tokens"


@pytest.mark.parametrize("who", PROTOCOLS)
def test_a_retry_after_a_failure_is_linked_to_it(
    stack: Stack, replica: ScriptedReplica, program: Programs, who: str
) -> None:
    replica.failures = [(500, "out of memory")]
    caller = stack.caller()
    attempt(program, who, caller)
    failed, done = stack.records(caller)
    assert (failed.status, failed.http_status) == (CompletionStatus.ERROR, 500)
    assert (done.status, done.untrainable) == (CompletionStatus.OK, None)
    assert done.completion_id != failed.completion_id
    assert done.retry_of == failed.completion_id
    assert failed.protocol is done.protocol is PROTOCOLS[who]


@pytest.mark.parametrize("who", STREAMS)
def test_a_stream_that_breaks_is_no_answer(
    stack: Stack, replica: ScriptedReplica, program: Programs, who: str
) -> None:
    """Chat and Messages raise; Responses ends with an event that says that it failed."""
    replica.cut_after = 4
    caller = stack.caller()
    if STREAMS[who] is Protocol.RESPONSES:
        got = attempt(program, who, caller)
        assert isinstance(got, dict)
        assert got["events"][-1]["type"] == "response.failed"
        assert "ended" in got["events"][-1]["response"]["error"]["message"]
    else:
        refused(program, who, caller, "APIError", "ended")
    record = stack.record(caller)
    assert (record.protocol, record.status) == (STREAMS[who], CompletionStatus.ERROR)
    assert (record.untrainable, record.streamed) == ("truncated_stream", True)
    assert record.token_ids == ids(Turn("The answer is 12.").tokens()[:3])


def test_no_route(stack: Stack, program: Programs) -> None:
    openai: ClientProgram = program("use_openai")
    with pytest.raises(ClientRaised, match="not served here") as caught:
        openai.run("moderate", api=stack.caller().openai, input="x")
    assert "openai.NotFoundError" in caught.value.types
