"""The whole runner on a real broker and a real Postgres: what goes in, what is announced, what is refused."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest
from counters import Growth
from runner_harness import SECRET, Bench, bench, published, running, until

from leyden_local.ports import free_ports
from leyden_platform.messaging import KafkaPublisher, PublishFailed, Rejected
from leyden_platform.settings import DatabaseSettings, KafkaSettings
from leyden_platform.tokens import verify
from leyden_schemas import Outcome, RolloutAssigned, RolloutFinished, Task, encode

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]


@pytest.fixture
async def stand(kafka: KafkaSettings, database: DatabaseSettings, tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(kafka, database, tmp_path) as made:
        yield made


async def test_a_plain_message_becomes_rollouts(stand: Bench) -> None:
    async with running(stand.settings()):
        await stand.send({"input": {"question": "2 + 2"}, "policy": stand.policy})
        await until(lambda: len(stand.letters) + len(mine(stand)) > 0, "an event")
        (event,) = mine(stand)
    assert stand.letters == []
    started = next(e for e in stand.started if e.rollout_id == event.rollout_id)
    assert (event.outcome, event.output, event.final, event.attempt) == (
        Outcome.SUCCEEDED,
        {"question": "2 + 2"},
        True,
        1,
    )
    assert started.task.task_id is not None
    assert started.queue == stand.queue
    (row,) = await stand.ledger("SELECT * FROM runner.rollouts")
    assert (row["outcome"], row["attempt"], row["owner"]) == ("succeeded", 1, None)


def mine(stand: Bench) -> list[RolloutFinished]:
    """The finished rollouts of this bench's policy."""
    started = {event.rollout_id for event in stand.started if event.task.policy.startswith(stand.policy)}
    return [event for event in stand.finished if event.rollout_id in started]


async def test_samples_share_a_group_and_carry_their_own_scoped_token(stand: Bench) -> None:
    async with running(stand.settings()):
        await stand.send(stand.task(task_id="many", samples=5, agent="environment"))
        await until(lambda: len(stand.finished_of("many")) == 5, "five rollouts")
    started = [event for event in stand.started if event.task.task_id == "many"]
    assert len({event.group_id for event in started}) == 1
    assert sorted(event.index for event in started) == [0, 1, 2, 3, 4]
    for event in stand.finished_of("many"):
        seen = event.output
        assert seen["OPENAI_BASE_URL"] == f"http://127.0.0.1:9/rollouts/{event.rollout_id}/attempts/1/v1"
        assert seen["OPENAI_MODEL"] == stand.policy
        claims = verify(seen["OPENAI_API_KEY"], stand.settings().token.secret)
        assert (claims.rollout_id, claims.attempt, claims.policy) == (event.rollout_id, 1, stand.policy)
        assert SECRET not in str(seen)
        assert jwt.get_unverified_header(seen["OPENAI_API_KEY"])["alg"] == "HS256"


async def test_the_trace_of_a_task_reaches_its_agent(stand: Bench) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with running(stand.settings()):
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        await stand.send(stand.task(task_id="traced", agent="environment"), headers)
        seen = (await stand.outcome("traced")).output
    assert seen["TRACEPARENT"].split("-")[1] == trace
    claims = verify(seen["OPENAI_API_KEY"], stand.settings().token.secret)
    assert claims.traceparent == seen["TRACEPARENT"]


async def test_bad_input_is_dead_lettered_with_a_reason_and_disturbs_nothing(stand: Bench) -> None:
    bad = {
        "not JSON": b"\xff\xfe not json",
        "an array": [],
        "no input": {"policy": stand.policy},
        "unknown field": stand.task(colour="red"),
        "wrong type": stand.task(input="2 + 2"),
        "no samples": stand.task(samples=0),
        "too many samples": stand.task(samples=10_000),
        "malformed policy": stand.task(policy="p@latest"),
        "unknown policy": stand.task(policy="nobody"),
        "unknown version": stand.task(policy=f"{stand.policy}@7"),
        "unknown alias": stand.task(policy=f"{stand.policy}#best"),
        "unknown reward": stand.task(reward={"name": "vibes"}),
        "unknown agent": stand.task(agent="nobody"),
        "too large": stand.task(reference="x" * 1_500_000),
    }
    rejected = Growth("leyden_runner_tasks_rejected_total", "reason")
    buried = Growth("leyden_deadletters_total", "reason", topic=stand.tasks)
    async with running(stand.settings()):
        for task in bad.values():
            await stand.send(task)
        await stand.send(stand.task(task_id="good", reward={"name": "mine"}, policy=f"{stand.policy}@0"))
        assert (await stand.outcome("good")).outcome is Outcome.SUCCEEDED
        await until(lambda: len(stand.letters) == len(bad), "a dead letter of each")
    texts = "\n".join(f"{letter.reason}: {letter.error}" for letter in stand.letters)
    for expected in (
        "malformed: MalformedMessage: message: Invalid JSON",
        "malformed: MalformedMessage: message: Input should be an object",
        "malformed: MalformedMessage: input: Field required",
        "malformed: MalformedMessage: colour: Extra inputs are not permitted",
        "malformed: MalformedMessage: input: Input should be an object",
        "malformed: MalformedMessage: samples: Input should be greater than or equal to 1",
        "malformed: MalformedMessage: samples: Input should be less than or equal to 256",
        "after '@' comes a version number",
        "unknown_policy: Rejected: policy 'nobody' is not published; known policies: ",
        f"unknown_policy: Rejected: policy '{stand.policy}@7' is not published",
        f"unknown_policy: Rejected: policy '{stand.policy}#best' is not published",
        "unknown_reward: Rejected: reward 'vibes' is not known; known rewards: clipped, ",
        "unknown_agent: Rejected: agent 'nobody' is not known; known agents: ",
        "too_large: Rejected: the task is ",
    ):
        assert expected in texts
    assert len(mine(stand)) == 1
    reasons = {"malformed": 8, "unknown_policy": 3, "unknown_reward": 1, "unknown_agent": 1, "too_large": 1}
    assert rejected() == buried() == reasons


async def test_a_message_far_too_large_and_a_broken_assignment(stand: Bench) -> None:
    large = KafkaPublisher(stand.kafka.model_copy(update={"max_message_bytes": 32 * 1024 * 1024}), "test")
    await large.start()
    refused = 0
    rejected = Growth("leyden_runner_tasks_rejected_total", "reason")
    buried = Growth("leyden_deadletters_total", "topic")
    async with running(stand.settings()):
        try:
            await large.publish_raw(
                stand.tasks, None, encode(Task(input={"x": "y" * 20_000_000}, policy="p"))
            )
        except (Rejected, PublishFailed):
            refused = 1
        await large.stop()
        await stand.publisher.publish_raw(stand.rollouts, None, b"{}")
        await stand.send(stand.task(task_id="good"))
        assert (await stand.outcome("good")).outcome is Outcome.SUCCEEDED
        await until(lambda: len(stand.letters) == 2 - refused, "the dead letters")
    reasons = {letter.source_topic: (letter.reason, letter.truncated) for letter in stand.letters}
    assert reasons.pop(stand.rollouts) == ("malformed", False)
    assert refused or reasons == {stand.tasks: ("too_large", True)}
    assert rejected() == ({} if refused else {"too_large": 1})
    assert buried() == {stand.rollouts: 1} | ({} if refused else {stand.tasks: 1})


async def test_a_policy_may_be_announced_after_its_task(stand: Bench) -> None:
    late = f"late-{stand.unique}"
    async with running(stand.settings(policy_wait_s=20.0)):
        await stand.send(stand.task(task_id="early", policy=late))
        await stand.publisher.publish(published(late))
        assert (await stand.outcome("early")).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize(
    ("agent", "outcome", "error"),
    [
        ("fails", Outcome.AGENT_FAILED, "ValueError: wrong turn"),
        ("dies", Outcome.AGENT_FAILED, "killed by signal 9"),
        ("hangs", Outcome.TIMED_OUT, "did not finish within 0.5 s"),
    ],
)
async def test_an_agents_own_failure_is_final(stand: Bench, agent: str, outcome: Outcome, error: str) -> None:
    attempts = {
        name: Growth("leyden_runner_attempts_total", "outcome", agent=name) for name in (agent, "garbage")
    }
    async with running(stand.settings()):
        await stand.send(stand.task(task_id=agent, agent=agent, limits={"timeout_s": 0.5}))
        await stand.send(stand.task(task_id="beside", agent="garbage"))
        event = await stand.outcome(agent)
        assert (await stand.outcome("beside")).outcome is Outcome.SUCCEEDED
    assert (event.outcome, event.attempt, event.final) == (outcome, 1, True)
    assert error in (event.error or "")
    assert {name: grown() for name, grown in attempts.items()} == {
        agent: {outcome.value: 1},
        "garbage": {"succeeded": 1},
    }


async def test_infrastructure_failures_are_retried_up_to_the_limit(stand: Bench) -> None:
    gateway = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{gateway.sockets[0].getsockname()[1]}"
    async with gateway, running(stand.settings(gateway_url=url)):
        await stand.send(stand.task(task_id="mends", agent="flaky", input={"good": 3}))
        await stand.send(stand.task(task_id="never", agent="flaky", input={"good": 99}))
        mended, never = await stand.outcome("mends"), await stand.outcome("never")
    assert (mended.outcome, mended.attempt, mended.output) == (Outcome.SUCCEEDED, 3, "at last")
    assert (never.outcome, never.attempt) == (Outcome.INFRASTRUCTURE_FAILED, 3)
    assert [(e.attempt, e.final) for e in stand.finished_of("never")] == [(1, False), (2, False), (3, True)]


async def test_an_outage_of_the_gateway_costs_no_attempt(stand: Bench) -> None:
    (port,) = free_ports(1)
    async with running(stand.settings(gateway_url=f"http://127.0.0.1:{port}")):
        await stand.send(stand.task(task_id="waits", agent="flaky", input={"good": 2}))
        await until(lambda: len(stand.finished_of("waits")) == 1, "the first attempt")
        (row,) = await stand.ledger("SELECT failures, attempt, outcome FROM runner.rollouts")
        assert (row["failures"], row["attempt"], row["outcome"]) == (0, 1, None)
        async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port):
            assert (await stand.outcome("waits")).outcome is Outcome.SUCCEEDED
    assert [(e.attempt, e.final) for e in stand.finished_of("waits")] == [(1, False), (2, True)]


async def test_duplicates_are_made_once(stand: Bench) -> None:
    task = Task(task_id="twice", input={"n": 1}, policy=stand.policy)
    async with running(stand.settings()):
        await stand.send(encode(task))
        await stand.outcome("twice")
        await stand.send(encode(task))
        await stand.publisher.publish(*RolloutAssigned.fan_out(task), topic=stand.rollouts)
        await stand.send(stand.task(task_id="after"))
        await stand.outcome("after")
    assert len(stand.finished_of("twice")) == 1
    assert len([event for event in stand.started if event.task.task_id == "twice"]) == 1
    (row,) = await stand.ledger(
        "SELECT count(*) FROM runner.attempts AS a JOIN runner.rollouts USING (rollout_id)"
    )
    assert row["count"] == 2
