"""From a production call to its reward: real gateway, real reward service, feedback sooner and much later."""

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import httpx
import openai
import pytest
from counters import Growth
from feedback_harness import put, rewards
from gateway_harness import Gateway, running_gateway
from member_harness import Member, of_rollouts
from vllm_stub import VllmStub, eventually, serving

from leyden_credit.app import processors as credit_processors
from leyden_credit.settings import CreditSettings
from leyden_gateway.attribution.keys import KeyGrant
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_gateway.feedback.settings import FeedbackSettings
from leyden_platform.clock import SystemClock
from leyden_platform.messaging import KafkaPublisher, ensure_topics
from leyden_platform.settings import KafkaSettings
from leyden_platform.testing.rollouts import Rollout, answer, make_task
from leyden_schemas import (
    CompletionRecorded,
    Mode,
    Outcome,
    RewardSpec,
    SignalRecorded,
    Topic,
    Topics,
    cause_id,
    encode,
)

pytestmark = pytest.mark.kafka

KEY, AGENT, STRANGER = "sk-shop-0123456789", "sk-agent-0123456789", "sk-stranger-0123456789"
HELLO: Any = [{"role": "user", "content": "3 * 4?"}]
LONG: Any = [{"role": "system", "content": "Be quick. " * 40}, *HELLO]
LONGER: Any = [*LONG, {"role": "assistant", "content": "12"}, {"role": "user", "content": "Sure?"}]
"""The second is stored as what it adds to the first."""


def grant(key: str, tenant: str = "shop", **fields: Any) -> KeyGrant:
    return KeyGrant(sha256=sha256(key.encode()).hexdigest(), tenant=tenant, run="live", **fields)


GRANTS = {
    "shop": grant(KEY),
    "agent": grant(AGENT, scopes=frozenset({"completions"})),
    "stranger": grant(STRANGER, "other"),
}


@dataclass
class Shop:
    """A gateway with callers of it."""

    gateway: Gateway
    http: httpx.AsyncClient

    async def ask(self, session: str, messages: Any = HELLO) -> httpx.Response:
        """One completion in a session."""
        response = await self.http.post(
            f"{self.gateway.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {KEY}", "x-leyden-session": session},
            json={"model": self.gateway.policy, "messages": messages},
        )
        assert response.status_code == 200, response.text
        return response

    async def say(self, body: Any, key: str = KEY, path: str = "") -> httpx.Response:
        """Feedback."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self.http.post(f"{self.gateway.url}{path}/v1/feedback", headers=headers, json=body)


@pytest.fixture
async def publisher(kafka: KafkaSettings) -> AsyncIterator[KafkaPublisher]:
    """A connected publisher; the topics exist."""
    await ensure_topics(kafka, Topics.ALL)
    publisher = KafkaPublisher(kafka, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
async def shop(kafka: KafkaSettings) -> AsyncIterator[Shop]:
    """It forgets every completion at once, so that the log has to be searched."""
    policy = f"assistant-{uuid4().hex[:8]}"
    async with (
        serving(VllmStub(models={f"{policy}@1"})) as stub,
        running_gateway(
            kafka,
            policy,
            stub.url,
            attribution=AttributionSettings(api_keys=GRANTS),
            feedback=FeedbackSettings(feedback_remember=0),
            allow_anonymous=True,
        ) as gateway,
        httpx.AsyncClient(timeout=30) as http,
    ):
        await gateway.publish_policy(versions=[1], serving=1)
        yield Shop(gateway, http)


@pytest.fixture
async def events(kafka: KafkaSettings) -> str:
    """A topic of events that no other test writes to."""
    topic = Topic(f"{Topics.EVENTS.name}.{uuid4().hex}", partitions=2)
    await ensure_topics(kafka, [topic])
    return topic.name


def revised(number: int) -> Any:
    return lambda found: any(trajectory.revision == number for trajectory in found)


async def test_a_session_is_scored_by_what_people_say_of_it_soon_or_late(
    kafka: KafkaSettings, publisher: KafkaPublisher, shop: Shop
) -> None:
    session = f"chat-{uuid4().hex}"
    async with rewards(kafka, Topics.EVENTS.name, publisher) as group:
        reward = group.member()
        first, second = await shop.ask(session, LONG), await shop.ask(session, LONGER)
        rollout_id = UUID(first.headers["x-leyden-rollout-id"])
        assert rollout_id == cause_id("session", "shop", "live", session)
        assert second.headers["x-leyden-rollout-id"] == str(rollout_id)

        alone = {"completion_id": first.headers["x-leyden-completion-id"], "thumb": "down"}
        told = await shop.say(alone)
        assert (told.status_code, told.json()["rollout_id"]) == (200, str(rollout_id))
        whole = {"session": session, "thumb": "up", "comment": "quick", "finish": True, "output": "12"}
        assert (await shop.say(whole)).status_code == 200

        (scored,) = await group.trajectories(rollout_id)
        more = [{"session": session, "score": 0.5}, {"session": session, "thumb": "up"}]
        await shop.say({"feedback": more})
        later = await group.trajectories(rollout_id, revised(2))
        await reward.leave()

    assert (scored.status, scored.revision, scored.reward, scored.output) == ("scored", 0, 1.0, "12")
    assert (scored.tenant, scored.run, len(scored.steps)) == ("shop", "live", 2)
    assert scored.task.input == {"messages": LONG}
    assert [term.name for term in scored.steps[0].terms] == ["signal.thumb"]
    assert {term.name: term.feedback for term in scored.final}["signal.comment"] == "quick"
    revision = later[-1]
    assert [t.revision for t in later] == [0, 1, 2]
    assert revision.reward == 0.75
    assert revision.group_id == scored.group_id
    assert [step.request["messages"] for step in revision.steps] == [LONG, LONGER]
    assert revision.trajectory_id != scored.trajectory_id


async def test_an_idle_session_without_feedback_has_no_reward_until_somebody_gives_one(
    kafka: KafkaSettings, publisher: KafkaPublisher, shop: Shop
) -> None:
    session = f"chat-{uuid4().hex}"
    async with rewards(kafka, Topics.EVENTS.name, publisher, session_idle_s=1.0) as group:
        reward = group.member()
        asked = await shop.ask(session)
        rollout_id = UUID(asked.headers["x-leyden-rollout-id"])
        (silent,) = await group.trajectories(rollout_id)
        await reward.leave()
        restarted = group.member()
        completion_id = asked.headers["x-leyden-completion-id"]
        await shop.say({"completion_id": completion_id, "rollout_id": str(rollout_id), "thumb": "down"})
        found = await group.trajectories(rollout_id, revised(1))
        await restarted.leave()
    assert (silent.status, silent.excluded_reason, silent.final) == ("excluded", "no_feedback", [])
    assert silent.output == "the answer is 12"
    assert [(t.revision, t.status) for t in found] == [(0, "excluded"), (1, "scored")]
    assert found[1].reward == 0.0
    assert found[1].group_id == silent.group_id


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        ("", 401, "missing_token"),
        ("token", 403, "feedback_forbidden"),
        (AGENT, 403, "missing_scope"),
        ("sk-nobody-0123456789", 401, "invalid_token"),
    ],
)
async def test_agents_cannot_reward_themselves(shop: Shop, key: str, status: int, code: str) -> None:
    session = f"chat-{uuid4().hex}"
    if key == "token":
        key = shop.gateway.token(shop.gateway.claims())
    refused = await shop.say({"session": session, "thumb": "up"}, key=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    rollout_id = cause_id("session", "shop", "live", session)
    assert await shop.gateway.log_now(rollout_id) == []


async def test_a_strangers_completion_is_not_found_and_a_strangers_signal_has_no_effect(
    kafka: KafkaSettings, publisher: KafkaPublisher, shop: Shop
) -> None:
    session = f"chat-{uuid4().hex}"
    async with rewards(kafka, Topics.EVENTS.name, publisher) as group:
        reward = group.member()
        asked = await shop.ask(session)
        rollout_id = UUID(asked.headers["x-leyden-rollout-id"])
        about = {"completion_id": asked.headers["x-leyden-completion-id"]}
        missing = await shop.say({**about, "thumb": "down"}, key=STRANGER)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "completion_not_found")
        await shop.say({"rollout_id": str(rollout_id), "thumb": "down", "finish": True}, key=STRANGER)
        await shop.say({"session": session, "thumb": "up", "finish": True})
        (scored,) = await group.trajectories(rollout_id)
        await reward.leave()
    assert scored.reward == 1.0


@pytest.mark.parametrize(
    "completion_id",
    [str(uuid4()), "ffffffff-ffff-7fff-8fff-ffffffffffff", "00000000-0000-7000-8000-000000000000"],
    ids=["not ours", "of the year 10889", "of 1970"],
)
async def test_a_completion_that_is_nowhere_says_what_to_send(shop: Shop, completion_id: str) -> None:
    missing = await shop.say({"completion_id": completion_id, "thumb": "up"})
    assert missing.status_code == 404
    error = missing.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "send its session, or its rollout_id (x-leyden-rollout-id)" in error["message"]


async def test_a_get_and_a_path_that_names_the_session(shop: Shop) -> None:
    session = f"chat-{uuid4().hex}"
    told = await shop.say({"thumb": "up"}, path=f"/sessions/{session}")
    assert told.json()["rollout_id"] == str(cause_id("session", "shop", "live", session))
    wrong = await shop.http.get(f"{shop.gateway.url}/v1/feedback")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_openais_client_gives_feedback(shop: Shop) -> None:
    client = openai.AsyncOpenAI(base_url=f"{shop.gateway.url}/v1", api_key=KEY, max_retries=0)
    raw = await client.chat.completions.with_raw_response.create(model=shop.gateway.policy, messages=HELLO)
    rollout_id = raw.headers["x-leyden-rollout-id"]
    told: Any = await client.post("/feedback", body={"rollout_id": rollout_id, "score": 0.8}, cast_to=object)
    assert told["rollout_id"] == rollout_id
    with pytest.raises(openai.BadRequestError, match="score"):
        await client.post("/feedback", body={"rollout_id": rollout_id, "score": "good"}, cast_to=object)


# -- by the time of the log


class Chat(Rollout):
    """A session's events."""

    def asked(self, **changes: Any) -> CompletionRecorded:
        return self.completion(**({"mode": Mode.PRODUCTION, "session": "s"} | changes))

    def said(self, value: float | None = 1.0, **changes: Any) -> SignalRecorded:
        return self.signal(value, **({"source": "shop"} | changes))


def at(hours: float) -> datetime:
    """So many hours before now."""
    return datetime.now(UTC) - timedelta(hours=hours)


async def test_hours_pass_by_the_log(kafka: KafkaSettings, publisher: KafkaPublisher, events: str) -> None:
    """Two sessions, ten and nine hours ago; a thumb for the first, four hours later."""
    chat, other = Chat(), Chat()
    await put(kafka, events, (at(10), chat.asked()), (at(9.9), chat.asked()), (at(9), other.asked()))
    await put(kafka, events, (at(6), chat.said(-1.0, text="wrong")), (at(6), chat.said(1.0)))
    async with rewards(kafka, events, publisher) as group:
        reward = group.member()
        found = await group.trajectories(chat.rollout_id, revised(2))
        await reward.leave()
    assert [(t.revision, t.excluded_reason) for t in found] == [(0, "no_feedback"), (1, None), (2, None)]
    assert [t.reward for t in found] == [0.0, 0.0, 1.0]
    assert all(len(t.steps) == 2 for t in found)
    ended = found[0].finished_at
    assert timedelta(hours=8.8) < datetime.now(UTC) - ended < timedelta(hours=9)


async def test_a_restart_in_the_middle_of_sessions_doubles_and_loses_nothing(
    kafka: KafkaSettings, publisher: KafkaPublisher, events: str
) -> None:
    """Every other session is over before the crash, but its end lies behind where one begins that is not."""
    chats = [Chat() for _ in range(12)]
    async with rewards(kafka, events, publisher) as group:
        first = group.member()
        for chat in chats:
            await publisher.publish(chat.asked(), topic=events)
        for chat in chats:
            await publisher.publish(chat.asked(), topic=events)
        for chat in chats[::2]:
            await publisher.publish(chat.said(), chat.finished(source="shop"), topic=events)
        for chat in chats[::2]:
            await group.trajectories(chat.rollout_id)
        await eventually(lambda: _committed(first))
        await first.crash()
        second = group.member()
        for chat in chats[1::2]:
            await publisher.publish(chat.said(-1.0), chat.finished(source="shop"), topic=events)
        everything = {chat.rollout_id: await group.trajectories(chat.rollout_id) for chat in chats}
        await second.leave()
        everything = {chat.rollout_id: await group.trajectories(chat.rollout_id) for chat in chats}
    for found in everything.values():
        assert len({encode(trajectory) for trajectory in found}) == 1
        assert len(found[0].steps) == 2
    assert [everything[chat.rollout_id][0].reward for chat in chats] == [1.0, 0.0] * 6


def _committed(member: Member) -> bool:
    """Whether the finished sessions at the beginning of the log are behind its watermark."""
    marks = [processor.watermark() for processor in member.processors]
    return any(mark for mark in marks)


async def test_what_is_wrong_with_events_is_counted_by_its_reason(
    kafka: KafkaSettings, publisher: KafkaPublisher, events: str
) -> None:
    rollout, chat, nobody, closed = Rollout(), Chat(), Rollout(), Rollout()
    started, first = rollout.started(), rollout.completion()
    thumb = rollout.signal(1.0)
    told = [
        (None, started),
        (None, first),
        (None, thumb),
        ("duplicate", started),
        ("duplicate", first),
        ("duplicate", thumb),
        ("contradictory", first.model_copy(update={"response": answer("5"), "event_id": uuid4()})),
        ("contradictory", first.model_copy(update={"completion_id": uuid4()})),
        ("contradictory", thumb.model_copy(update={"value": -1.0})),
        ("signal_not_finite", rollout.signal(math.nan)),
        ("signal_not_finite", rollout.signal(math.inf)),
        ("unknown_completion", rollout.signal(1.0, completion_id=uuid4())),
        ("other_tenant", rollout.signal(1.0, tenant="other")),
        ("not_a_session", rollout.finished(source="shop")),
        (None, rollout.started(2)),
        (None, rollout.completion(2)),
        ("stale_attempt", rollout.completion(1)),
        (None, rollout.finished("4", attempt=2)),
        ("late", rollout.completion(2)),
        ("late", rollout.finished("5", attempt=2)),
        ("late", rollout.signal(1.0, attempt=2)),
        ("unknown_rollout", nobody.completion()),
        ("unknown_rollout", nobody.finished()),
        ("unknown_rollout", nobody.signal(1.0)),
        ("unknown_rollout", closed.completion()),
        (None, closed.started()),
        (None, chat.asked()),
        ("out_of_order", chat.started()),
        ("not_a_conversation", Chat().asked(status="error")),
        (None, closed.finished()),
    ]
    reasons = {reason for reason, _event in told if reason}
    expected = {reason: sum(one == reason for one, _event in told) for reason in reasons}
    expected["superseded"] = 2
    dropped = Growth("leyden_reward_events_dropped_total", "reason")
    async with rewards(kafka, events, publisher) as group:
        reward = group.member()
        await publisher.publish(*(event for _reason, event in told), topic=events)
        (trajectory,) = await group.trajectories(rollout.rollout_id)
        await group.trajectories(closed.rollout_id)
        await eventually(lambda: dropped() == expected)
        await reward.leave()
    assert (trajectory.attempt, len(trajectory.steps), trajectory.reward) == (2, 1, 1.0)


async def test_status_is_honest(kafka: KafkaSettings, publisher: KafkaPublisher, events: str) -> None:
    """What the agent did is rewarded, what befell it is not: runners' rollouts and sessions alike."""
    by = RewardSpec(name="feedback")
    endings: list[tuple[Outcome, object, str | float]] = [
        (Outcome.SUCCEEDED, "4", 1.0),
        (Outcome.SUCCEEDED, "5", 0.0),
        (Outcome.AGENT_FAILED, None, 0.0),
        (Outcome.TIMED_OUT, None, 0.0),
        (Outcome.INFRASTRUCTURE_FAILED, None, "infrastructure_failed"),
    ]
    rollouts = [Rollout() for _ in endings]
    chats = [Chat() for _ in endings]
    silent = Rollout(task=make_task(reward=by))
    for rollout, chat, (outcome, output, _worth) in zip(rollouts, chats, endings, strict=True):
        said = chat.said(1.0 if output == "4" else -1.0)
        await publisher.publish(
            rollout.started(), rollout.completion(), rollout.finished(output, outcome=outcome), topic=events
        )
        ended = chat.finished(output, outcome=outcome, source="shop")
        await publisher.publish(chat.asked(), said, ended, topic=events)
    await publisher.publish(silent.started(), silent.completion(), silent.finished(), topic=events)
    async with rewards(kafka, events, publisher) as group:
        reward = group.member()
        worth = [(await group.trajectories(told.rollout_id))[0] for told in (*rollouts, *chats, silent)]
        await reward.leave()
    expected = [worth for _outcome, _output, worth in endings]
    assert [t.excluded_reason or t.reward for t in worth] == [*expected, *expected, "no_feedback"]


async def test_credit_trains_on_the_newest_revision_while_the_group_is_open(
    kafka: KafkaSettings, publisher: KafkaPublisher, events: str
) -> None:
    task = make_task(samples=2, reward=RewardSpec(name="feedback"), task_id=uuid4().hex)
    group_id = uuid4()
    one, two = (Rollout(task=task, group_id=group_id, index=index) for index in range(2))
    topic = Topic(f"{Topics.TRAJECTORIES.name}.{uuid4().hex}", partitions=1)
    await ensure_topics(kafka, [topic])
    dropped = Growth("leyden_credit_trajectories_dropped_total", "reason")
    async with rewards(kafka, events, publisher) as group:
        reward = group.member()
        await publisher.publish(
            one.started(), one.completion(), one.signal(-1.0), one.finished(), topic=events
        )
        await publisher.publish(one.signal(1.0), topic=events)
        of_one = await group.trajectories(one.rollout_id, revised(1))
        await publisher.publish(
            two.started(), two.completion(), two.signal(-1.0), two.finished(), topic=events
        )
        of_two = await group.trajectories(two.rollout_id)
        await publisher.publish(one.signal(-1.0), topic=events)
        of_one += (await group.trajectories(one.rollout_id, revised(2)))[2:]
        await reward.leave()
    settings = CreditSettings(kafka=kafka, group=uuid4().hex)
    factory = credit_processors(settings, publisher, SystemClock())
    await publisher.publish(*of_one[:2], *of_two, of_one[2], topic=topic.name)
    credit = Member(kafka, settings.group, topic.name, publisher, factory)
    await eventually(lambda: dropped() == {"superseded": 1, "revised_late": 1}, timeout_s=30)
    await credit.leave()
    samples = await of_rollouts(kafka, Topics.SAMPLES, {one.rollout_id, two.rollout_id})
    assert {sample.rollout_id: sample.reward for sample in samples} == {
        one.rollout_id: 1.0,
        two.rollout_id: 0.0,
    }
    assert len(samples) == 2
