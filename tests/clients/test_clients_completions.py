"""OpenAI's client and what is not a conversation: text completions, and embeddings."""

import pytest
from client_checks import Json, leaks, without
from client_programs import ClientProgram, Programs
from client_stack import POLICY, Stack
from replica_script import Turn, ids, logprob, pieces, prompt_ids
from scripted_replica import ScriptedReplica
from vllm_wire import embedding

from leyden_schemas import Protocol, Split

pytestmark = pytest.mark.kafka

PROMPT = "Three times four is"
PROMPTS = {
    "a text": PROMPT,
    "texts": [PROMPT, "Five times six is"],
    "ids": [11, 12, 13],
    "lists of ids": [[11, 12, 13], [14, 15]],
}


@pytest.fixture
def openai(program: Programs) -> ClientProgram:
    return program("use_openai")


def as_asked(sent: Json) -> Json:
    """What the replica sent, without what the caller did not ask for."""
    hidden = ("token_ids", "prompt_token_ids")
    return {**sent, "choices": [{**without(choice, *hidden), "logprobs": None} for choice in sent["choices"]]}


@pytest.mark.parametrize("what", PROMPTS)
@pytest.mark.parametrize("case", ["complete", "complete_stream"])
def test_completions(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, what: str, case: str
) -> None:
    """Each prompt's answer is a completion of its own, with that prompt's ids."""
    asked = {"model": "davinci", "prompt": PROMPTS[what], "max_tokens": 16}
    caller, turn = stack.caller(), replica.turns[0]
    got = openai.run(case, api=caller.openai, **asked)
    records, prompts = stack.records(caller), prompt_ids(asked["prompt"])
    assert [record.prompt_token_ids for record in records] == prompts
    for index, record in enumerate(records):
        assert (record.protocol, record.untrainable, record.finish_reason) == (
            Protocol.COMPLETIONS,
            None,
            "stop",
        )
        assert record.token_ids == ids(turn.tokens(index))
        assert record.logprobs == [logprob(token) for token in turn.tokens(index)]
        assert record.streamed == (case == "complete_stream")
        assert record.response is not None
        assert record.response["choices"][0]["text"] == turn.words(index)
    assert records[0].request == {**asked, **({"stream": True} if case == "complete_stream" else {})}
    assert got["headers"]["x-leyden-completion-id"] == str(records[0].completion_id)
    assert got["headers"]["x-leyden-model"] == f"{POLICY}@1"
    seen = replica.seen[0]
    assert (seen.path, seen.request["prompt"]) == ("/v1/completions", asked["prompt"])
    if case == "complete":
        assert got["answer"] == as_asked(seen.sent())
    else:
        assert got["chunks"] == [as_asked(chunk) for chunk in seen.chunks() if chunk["choices"]]
        assert not leaks(got["chunks"])


@pytest.mark.parametrize("case", ["complete", "complete_stream"])
def test_each_alternative_is_recorded(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str
) -> None:
    caller, turn = stack.caller(), replica.turns[0]
    openai.run(case, api=caller.openai, model="m", prompt=[PROMPT, "Two"], n=2)
    records = stack.records(caller)
    one, two = ids(pieces(PROMPT)), ids(pieces("Two"))
    assert [record.prompt_token_ids for record in records] == [one, one, two, two]
    assert [record.token_ids for record in records] == [ids(turn.tokens(index)) for index in range(4)]
    assert len({record.completion_id for record in records}) == 4


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("case", ["complete", "complete_stream"])
def test_logprobs_and_ids_arrive_when_they_are_asked_for(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, case: str, count: int
) -> None:
    """``logprobs: 0`` asks for those of the sampled tokens."""
    caller = stack.caller(split=Split.EVAL)
    asked = {"model": "m", "prompt": PROMPT, "logprobs": count, "extra_body": {"return_token_ids": True}}
    got = openai.run(case, api=caller.openai, **asked)
    seen = replica.seen[0]
    assert seen.request["logprobs"] == count
    if case == "complete":
        assert got["answer"] == seen.sent()
    else:
        assert got["chunks"] == [chunk for chunk in seen.chunks() if chunk["choices"]]
    tokens = replica.turns[0].tokens()
    assert stack.record(caller).logprobs == [logprob(token) for token in tokens]


def test_parameters_pass(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    asked = {"model": "m", "prompt": PROMPT, "stop": ["."], "seed": 3, "temperature": 0.3, "suffix": "!"}
    caller = stack.caller(split=Split.EVAL)
    openai.run("complete", api=caller.openai, **asked, extra_body={"a_field_of_tomorrow": 1})
    assert stack.record(caller).request == {**asked, "a_field_of_tomorrow": 1}
    seen = replica.seen[0].request
    assert {name: seen[name] for name in asked} == {**asked, "model": f"{POLICY}@1"}


def test_training_forces_sampling(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    caller = stack.caller()
    got = openai.run("complete", api=caller.openai, model="m", prompt=PROMPT, temperature=0, best_of=1)
    assert got["headers"]["x-leyden-sampling"] == "forced"
    assert replica.seen[0].request["temperature"] == 0.9
    assert stack.record(caller).sampling.overridden["temperature"] == 0


def test_a_prompt_that_goes_on(stack: Stack, replica: ScriptedReplica, openai: ClientProgram) -> None:
    """An agent that keeps its own transcript as text: each prompt is stored whole again when it is read."""
    replica.script(Turn(" twelve."), Turn(" thirty."))
    caller = stack.caller()
    first = openai.run("complete", api=caller.openai, model="m", prompt=PROMPT)["answer"]["choices"][0][
        "text"
    ]
    longer = f"{PROMPT}{first} Five times six is"
    openai.run("complete", api=caller.openai, model="m", prompt=longer)
    one, two = stack.records(caller)
    assert (one.request["prompt"], two.request["prompt"]) == (PROMPT, longer)
    assert two.prompt_token_ids == ids(pieces(longer))


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings(
    stack: Stack, replica: ScriptedReplica, openai: ClientProgram, encoding: str | None
) -> None:
    """By default the client asks for base64 and decodes it."""
    caller = stack.caller()
    asked = {"model": "embedder", "input": ["one", "two"]}
    wanted = {} if encoding is None else {"encoding_format": encoding}
    got = openai.run("embed", api=caller.openai, **asked, **wanted)
    seen = replica.seen[0]
    assert (seen.path, seen.request["input"]) == ("/v1/embeddings", asked["input"])
    if encoding is None:
        assert seen.request["encoding_format"] == "base64"
        assert [item["embedding"] for item in got["answer"]["data"]] == [embedding("one"), embedding("two")]
    else:
        assert got["answer"] == seen.sent()
    record = stack.record(caller)
    assert (record.operation, record.untrainable) == ("embeddings", "embeddings")
    assert record.request["input"] == asked["input"]
    assert got["headers"]["x-leyden-completion-id"] == str(record.completion_id)


def test_embeddings_of_langchain(stack: Stack, replica: ScriptedReplica, program: Programs) -> None:
    caller = stack.caller()
    vectors = program("use_langchain").run("embed", api=caller.openai, texts=["one", "two"])
    assert vectors == [embedding("one"), embedding("two")]
    assert stack.record(caller).operation == "embeddings"
