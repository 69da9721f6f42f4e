"""From captures to records: reasons, alignment, ids, and that the log can read what is built."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.errors import InvalidRequest, RecordTooLarge
from leyden_gateway.exchange.capture import Capture
from leyden_gateway.exchange.fields import encode, of, parse
from leyden_gateway.exchange.training_mode import Wants
from leyden_gateway.recording.record import Call, Ending, Record, records, without_payload
from leyden_gateway.routing.choice import Choice
from leyden_schemas import (
    CompletionRecorded,
    CompletionStatus,
    Mode,
    Protocol,
    SamplingUsed,
    Timings,
    Topics,
    Usage,
    cause_id,
    decode,
)

COMPLETION = UUID(int=9)
STARTED = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING = Wants()


def call(choice: Choice | None = Choice("http://r", "calculator", 3), policy: str = "calculator") -> Call:  # noqa: B008 - frozen
    made = Call(COMPLETION, Attribution(UUID(int=1), 1, "main", policy=policy), STARTED, 0.0)
    made.request = of({"model": "m"})
    made.choice = choice
    made.sampling = {"temperature": 1.0}
    return made


def capture(
    ids: list[int] | None = None,
    logprobs: list[Any] | None = None,
    prompt: list[int] | None = None,
    usage: dict[str, Any] | None = None,
    choices: int = 1,
) -> Capture:
    made = Capture()
    content = [{"logprob": value} for value in ([-0.5, -0.25] if logprobs is None else logprobs)]
    item = {
        "message": {"role": "assistant", "content": "x"},
        "token_ids": [5, 6] if ids is None else ids,
        "logprobs": {"content": content},
        "finish_reason": "stop",
    }
    answer = {
        "prompt_token_ids": [1, 2, 3] if prompt is None else prompt,
        "choices": [{**item, "index": index} for index in range(choices)],
        **({"usage": usage} if usage else {}),
    }
    made.whole(of(answer), NOTHING)
    return made


def read(record: Record) -> CompletionRecorded:
    """What a reader of the log makes of a record."""
    event = decode(Topics.EVENTS, encode(record))
    assert isinstance(event, CompletionRecorded)
    return event


def one(ending: Ending, captured: Capture, made: Call | None = None) -> CompletionRecorded:
    (record,) = records(made or call(), ending, captured, total_s=1.5)
    return read(record)


def test_a_complete_record() -> None:
    record = one(Ending.completed(), capture(usage={"completion_tokens": 2, "prompt_tokens": 3}))
    assert record.untrainable is None
    assert (record.completion_id, record.event_id) == (
        COMPLETION,
        cause_id("completion_recorded", COMPLETION),
    )
    assert (record.token_ids, record.logprobs, record.prompt_token_ids) == ([5, 6], [-0.5, -0.25], [1, 2, 3])
    assert (record.model, record.replica, record.usage.completion_tokens) == ("calculator@3", "http://r", 2)
    assert record.timings.total_s == 1.5


def test_every_field_comes_back_from_the_log() -> None:
    request = {"model": "gpt-4o", "messages": [{"role": "user", "content": "žluť \U0001f42d"}], "n": None}
    made = Call(
        COMPLETION,
        Attribution(
            UUID(int=1), 4, "critic", tenant="acme", run="r1", mode=Mode.EVALUATION, session="s1", policy="p"
        ),
        STARTED,
        started=10.0,
        protocol=Protocol.RESPONSES,
        operation="something",
        request=parse(encode(request)),
        response={"id": "resp_1", "output": []},
        sampling={
            "temperature": 0.5,
            "top_p": 0.25,
            "top_k": 3,
            "max_tokens": 7,
            "seed": 8,
            "overridden": {"n": 2},
        },
        choice=Choice("http://r", "calculator", 3),
        sent=10.5,
        streamed=True,
        first_token_s=0.75,
        client="OpenAI/Python 3",
        user="u1",
        retry_of=UUID(int=8),
        untrainable="because",
    )
    assert one(Ending.completed(), capture(), made) == CompletionRecorded(
        tenant="acme",
        run="r1",
        event_id=cause_id("completion_recorded", COMPLETION),
        rollout_id=UUID(int=1),
        attempt=4,
        occurred_at=STARTED,
        completion_id=COMPLETION,
        agent="critic",
        protocol=Protocol.RESPONSES,
        operation="something",
        mode=Mode.EVALUATION,
        session="s1",
        user="u1",
        client="OpenAI/Python 3",
        retry_of=UUID(int=8),
        streamed=True,
        status=CompletionStatus.OK,
        http_status=200,
        error=None,
        untrainable="because",
        policy="calculator",
        version=3,
        replica="http://r",
        base=None,
        request=request,
        response={"id": "resp_1", "output": []},
        prompt_token_ids=[1, 2, 3],
        token_ids=[5, 6],
        logprobs=[-0.5, -0.25],
        finish_reason="stop",
        sampling=SamplingUsed(
            temperature=0.5, top_p=0.25, top_k=3, max_tokens=7, seed=8, overridden={"n": 2}
        ),
        usage=Usage(prompt_tokens=3, completion_tokens=2),
        timings=Timings(queue_s=0.5, first_token_s=0.75, total_s=1.5),
    )


def test_a_record_has_every_field_of_its_schema() -> None:
    """A field left out would come back as its default, and nobody would notice; ``base`` comes later."""
    (record,) = records(call(), Ending.completed(), capture(), total_s=1.0)
    assert set(record) == set(CompletionRecorded.model_fields) - {"base"}


@pytest.mark.parametrize(
    ("captured", "reason"),
    [
        (capture(ids=[]), "no_token_ids"),
        (capture(prompt=[]), "no_token_ids"),
        (capture(logprobs=[-0.5]), "logprobs_mismatch"),
        (capture(logprobs=[-0.5] * 3), "logprobs_mismatch"),
        (capture(logprobs=[]), "logprobs_mismatch"),
        (capture(logprobs=[-0.5, None]), "logprobs_not_finite"),
        (capture(logprobs=[-0.5, "-0.5"]), "logprobs_not_finite"),
        (capture(logprobs=[-0.5, 10**400]), "logprobs_not_finite"),
        (capture(logprobs=[-0.5, float("-inf")]), "logprobs_not_finite"),
        (capture(logprobs=[-0.5, float("nan")]), "logprobs_not_finite"),
        (capture(usage={"completion_tokens": 3}), "token_count_mismatch"),
        (capture(usage={"completion_tokens": 2}, choices=2), "token_count_mismatch"),
        (capture(usage={"completion_tokens": 4}, choices=2), None),
    ],
)
def test_why_a_completion_cannot_be_trained_on(captured: Capture, reason: str | None) -> None:
    for built in records(call(), Ending.completed(), captured, total_s=1.0):
        record = read(built)
        assert record.untrainable == reason
        assert len(record.logprobs) in (0, len(record.token_ids))


def test_numbers_too_large_for_a_log_probability() -> None:
    captured = Capture()
    captured.whole(
        parse(b'{"choices": [{"token_ids": [5], "logprobs": {"content": [{"logprob": -1e999}]}}]}'), NOTHING
    )
    assert one(Ending.completed(), captured).logprobs == []


@pytest.mark.parametrize(
    ("reason", "untrainable"), [("stop", None), ("length", None), ("abort", "aborted"), ("error", "aborted")]
)
def test_what_the_replica_gave_up_is_untrainable(reason: str, untrainable: str | None) -> None:
    captured = capture()
    captured.choices[0].finish_reason = reason
    record = one(Ending.completed(), captured)
    assert (record.finish_reason, record.untrainable) == (reason, untrainable)
    assert list(record.token_ids) == [5, 6], "they were sampled all the same"


def test_an_unknown_version_is_untrainable() -> None:
    record = one(Ending.completed(), capture(), call(choice=None, policy="calculator#serving"))
    assert (record.untrainable, record.policy, record.version) == ("unknown_version", "calculator", None)


@pytest.mark.parametrize(
    ("ending", "status", "reason", "http_status"),
    [
        (Ending.failed(InvalidRequest("bad")), CompletionStatus.ERROR, "invalid_request", 400),
        (Ending.refused(422, "no"), CompletionStatus.ERROR, "upstream_error", 422),
        (Ending.cancelled("gone"), CompletionStatus.CANCELLED, "cancelled", 499),
    ],
)
def test_other_endings(ending: Ending, status: CompletionStatus, reason: str, http_status: int) -> None:
    record = one(ending, Capture())
    assert (record.status, record.untrainable, record.http_status) == (status, reason, http_status)
    assert (record.response, record.token_ids) == (None, [])


def test_what_was_sampled_before_a_hang_up_is_kept() -> None:
    partial = Capture()
    partial.chunk(of({"choices": [{"delta": {"content": "x"}, "token_ids": [5], "logprobs": None}]}), NOTHING)
    record = one(Ending.cancelled("gone"), partial)
    assert (record.token_ids, record.logprobs, record.untrainable) == ([5], [], "cancelled")
    assert record.response is not None
    assert record.response["choices"][0]["message"]["content"] == "x"


def test_alternatives_have_ids_of_their_own() -> None:
    made = [read(record) for record in records(call(), Ending.completed(), capture(choices=3), total_s=1.0)]
    assert [record.completion_id for record in made] == [
        COMPLETION,
        cause_id("choice", COMPLETION, 1),
        cause_id("choice", COMPLETION, 2),
    ]
    assert len({record.event_id for record in made}) == 3
    assert [record.usage.completion_tokens for record in made] == [2, 2, 2]
    assert [len(record.response["choices"]) for record in made if record.response] == [1, 1, 1]


def test_usage_is_taken_from_the_replica_when_it_gave_no_ids() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 4}
    record = one(Ending.completed(), capture(ids=[], logprobs=[], prompt=[], usage=usage))
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (11, 4)
    odd = {"prompt_tokens": "many", "completion_tokens": None}
    assert one(Ending.completed(), capture(ids=[], prompt=[], usage=odd)).usage.prompt_tokens == 0


def test_a_record_without_its_payload_keeps_who_and_when() -> None:
    (full,) = records(call(), Ending.completed(), capture(), total_s=1.5)
    slim = read(without_payload(full, error=RecordTooLarge("too large")))
    assert (slim.request, slim.response, slim.token_ids, slim.prompt_token_ids) == ({}, None, [], [])
    assert (slim.untrainable, slim.rollout_id, slim.version) == ("record_too_large", UUID(int=1), 3)
    assert (slim.status, slim.http_status) == (CompletionStatus.ERROR, 413)
