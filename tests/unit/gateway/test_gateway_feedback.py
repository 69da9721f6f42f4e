"""Feedback before it reaches the log: what is accepted, from whom, about what, and under which ids."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from leyden_gateway.attribution.gatekeeper import Gatekeeper
from leyden_gateway.attribution.keys import KeyGrant
from leyden_gateway.attribution.named import NOTHING, Named
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_gateway.control.limits import TenantLimiter
from leyden_gateway.control.settings import TenantLimits
from leyden_gateway.errors import (
    ApiError,
    CompletionNotFound,
    FeedbackForbidden,
    InvalidRequest,
    InvalidRolloutToken,
    MissingToken,
    RateLimited,
    RecordingUnavailable,
    ScopeMissing,
)
from leyden_gateway.exchange.caller import Caller
from leyden_gateway.feedback.completions import Completions, Origin, RecentCompletions
from leyden_gateway.feedback.desk import Desk
from leyden_gateway.feedback.items import MAX_TEXT, parse_items
from leyden_gateway.recording.redaction import Redaction
from leyden_platform.clock import ManualClock, born_at
from leyden_platform.messaging import MemoryPublisher, PublishFailed
from leyden_platform.settings import KafkaSettings
from leyden_platform.tokens import RolloutClaims, TokenSettings, mint
from leyden_schemas import (
    Outcome,
    RolloutFinished,
    Sampling,
    SignalRecorded,
    Split,
    cause_id,
    new_id,
)

SECRET = SecretStr("a secret of at least thirty-two characters")
KEY, OTHER, AGENT, LOOP = (f"sk-{name}-0123456789" for name in ("shop", "other", "agent", "loop"))
SESSION = cause_id("session", "shop", "live", "s1")


def grant(key: str, **fields: Any) -> KeyGrant:
    return KeyGrant(sha256=sha256(key.encode()).hexdigest(), **fields)


GRANTS = {
    "shop": grant(KEY, tenant="shop", run="live"),
    "other": grant(OTHER, tenant="other", run="live"),
    "agent": grant(AGENT, tenant="shop", run="live", scopes=frozenset({"completions"})),
    "loop": grant(LOOP, tenant="shop", run="live", session="key"),
}


class Front:
    """A desk with a log in memory, and callers that send it something."""

    def __init__(
        self,
        publisher: MemoryPublisher | None = None,
        *,
        redaction: Redaction | None = None,
        limits: Mapping[str, TenantLimits] | None = None,
    ) -> None:
        self.publisher = publisher or MemoryPublisher()
        self.recent = RecentCompletions(10)
        self.forgotten: list[tuple[UUID, int]] = []
        gatekeeper = Gatekeeper(
            AttributionSettings(api_keys=GRANTS), TokenSettings(secret=SECRET), allow_anonymous=True
        )
        nowhere = KafkaSettings(bootstrap="127.0.0.1:1")
        self.desk = Desk(
            gatekeeper,
            Completions(nowhere, self.recent, longest_s=1.0, timeout_s=1.0),
            TenantLimiter(limits or {}),
            redaction,
            self.publisher,
            None,
            ManualClock(),
            self.forgotten.append,
            max_items=3,
        )

    async def give(
        self,
        body: object,
        key: str | None = KEY,
        path: Named = NOTHING,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"authorization": f"Bearer {key}"} if key else {}
        sent |= headers or {}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(_message: Any) -> None:
            raise AssertionError("the desk answers nobody itself")

        scope = {"headers": [(name.encode(), value.encode()) for name, value in sent.items()]}
        caller = Caller(scope, receive, send, stall_timeout_s=1.0)
        return await self.desk.take(path, caller, within_s=1.0)

    @property
    def signals(self) -> list[tuple[str, float | None, str | None]]:
        return [(e.name, e.value, e.text) for e in self.events if isinstance(e, SignalRecorded)]

    @property
    def events(self) -> list[Any]:
        return list(self.publisher.published)


def token() -> str:
    claims = RolloutClaims(
        rollout_id=uuid4(),
        attempt=1,
        tenant="shop",
        run="live",
        policy="p",
        split=Split.TRAIN,
        sampling=Sampling(),
        max_completions=1,
    )
    return mint(claims, SECRET, ttl_s=86_400)


async def test_everything_an_item_says_is_a_signal_of_the_sessions_rollout() -> None:
    front = Front()
    answer = await front.give(
        {"session": "s1", "thumb": "down", "score": 0.25, "correction": "7", "comment": "slow"}
    )
    assert front.signals == [
        ("comment", None, "slow"),
        ("thumb", -1.0, None),
        ("score", 0.25, None),
        ("correction", 1.0, "7"),
    ]
    assert {(e.rollout_id, e.tenant, e.run, e.source) for e in front.events} == {
        (SESSION, "shop", "live", "shop")
    }
    assert answer["rollout_id"] == str(SESSION)
    assert answer["object"] == "feedback"
    assert {key for _topic, key, _value, _headers in front.publisher.encoded} == {str(SESSION).encode()}


async def test_finish_comes_last_and_says_how_it_went() -> None:
    front = Front()
    await front.give({"session": "s1", "finish": True, "output": {"sold": 3}, "thumb": "up"})
    thumb, end = front.events
    assert thumb.name == "thumb"
    assert isinstance(end, RolloutFinished)
    assert (end.outcome, end.output, end.final, end.source) == (
        Outcome.SUCCEEDED,
        {"sold": 3},
        True,
        "shop",
    )
    await front.give({"session": "s2", "finish": True, "outcome": "agent_failed"})
    assert front.events[-1].outcome is Outcome.AGENT_FAILED


async def test_any_other_measurement_has_a_name() -> None:
    front = Front()
    await front.give({"session": "s1", "name": "resolved", "value": 1})
    assert front.signals == [("resolved", 1.0, None)]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (Named(session="s1"), {}),
        (NOTHING, {"x-leyden-session": "s1"}),
        (NOTHING, {"x-leyden-rollout-id": str(SESSION)}),
        (Named(rollout_id=SESSION, attempt=2), {}),
    ],
)
async def test_path_or_header_say_what_it_is_about(path: Named, headers: dict[str, str]) -> None:
    front = Front()
    await front.give({"thumb": "up"}, path=path, headers=headers)
    assert front.events[0].rollout_id == SESSION


async def test_the_item_goes_before_path_and_headers() -> None:
    front = Front()
    await front.give({"session": "s1", "thumb": "up"}, headers={"x-leyden-session": "other"})
    assert front.events[0].rollout_id == SESSION


async def test_a_key_whose_calls_are_one_session_needs_no_name() -> None:
    front = Front()
    await front.give({"thumb": "up"}, key=LOOP)
    assert front.events[0].rollout_id == cause_id("session", "shop", "live", "key:loop")


async def test_a_completion_is_found_among_those_answered_lately() -> None:
    front, completion_id, rollout_id = Front(), new_id(), uuid4()
    front.recent.remember(completion_id, Origin("shop", "live", rollout_id))
    answer = await front.give({"completion_id": str(completion_id), "thumb": "up"})
    assert (front.events[0].rollout_id, front.events[0].completion_id) == (rollout_id, completion_id)
    assert answer["completion_id"] == str(completion_id)
    with pytest.raises(CompletionNotFound, match="not known to this key"):
        await front.give({"completion_id": str(completion_id), "thumb": "up"}, key=OTHER)


@pytest.mark.parametrize("completion_id", [uuid4(), new_id()])
async def test_a_completion_that_cannot_be_found_says_what_to_send(completion_id: UUID) -> None:
    with pytest.raises(CompletionNotFound, match="send its session, or its rollout_id"):
        await Front().give({"completion_id": str(completion_id), "thumb": "up"})


def test_the_oldest_completion_is_forgotten_first() -> None:
    recent = RecentCompletions(2)
    ids = [new_id() for _ in range(3)]
    for completion_id in ids:
        recent.remember(completion_id, Origin("t", "r", completion_id))
    assert [recent.find(completion_id) is None for completion_id in ids] == [True, False, False]


def test_a_completion_id_says_when_it_was_born() -> None:
    assert abs(born_at(new_id()) - datetime.now(UTC)) < timedelta(seconds=5)
    assert born_at(UUID("ffffffff-ffff-7fff-8fff-ffffffffffff")) == datetime(3000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (None, MissingToken),
        ("sk-nobody-0123456789", InvalidRolloutToken),
        (token(), FeedbackForbidden),
        (token() + "x", InvalidRolloutToken),
        (AGENT, ScopeMissing),
    ],
)
async def test_who_may_not_give_feedback(key: str | None, error: type[ApiError]) -> None:
    front = Front()
    with pytest.raises(error):
        await front.give({"session": "s1", "thumb": "up"}, key=key)
    assert front.events == []


def test_an_agents_key_completes_and_a_feedback_key_does_not() -> None:
    front = Front()
    gatekeeper = front.desk._gatekeeper
    headers = {b"authorization": f"Bearer {AGENT}".encode()}
    assert gatekeeper.attribute(NOTHING, headers).key == "agent"
    only = {"button": grant(OTHER, scopes=frozenset({"feedback"}))}
    closed = Gatekeeper(
        AttributionSettings(api_keys=only), TokenSettings(secret=SECRET), allow_anonymous=False
    )
    headers = {b"authorization": f"Bearer {OTHER}".encode()}
    assert closed.feedback_key(headers).name == "button"
    with pytest.raises(ScopeMissing, match="'button' is not for completions"):
        closed.attribute(NOTHING, headers)


@pytest.mark.parametrize(
    ("body", "where", "why"),
    [
        (b"not json", None, "not valid JSON"),
        (b"[]", None, "a JSON object is expected"),
        (b"\xff\xfe", None, "not valid"),
        ({}, None, "says nothing"),
        ({"session": "s"}, None, "says nothing"),
        ({"session": "s", "thumb": "sideways"}, "thumb", "'up' or 'down'"),
        ({"session": "s", "thumb": True}, "thumb", "'up' or 'down'"),
        ({"session": "s", "score": "5"}, "score", "valid number"),
        ({"session": "s", "score": 1e300}, "score", "less than or equal"),
        (b'{"session": "s", "score": NaN}', None, "not valid JSON"),
        (b'{"session": "s", "score": Infinity}', None, "not valid JSON"),
        (b'{"session": "s", "finish": true, "output": ' + b"[" * 300 + b"]" * 300 + b"}", None, "nested"),
        ({"session": "s", "name": "thumb", "value": 1}, None, "field of its own"),
        ({"session": "", "thumb": "up"}, "session", "printable"),
        ({"session": "x" * 600, "thumb": "up"}, "session", "printable"),
        ({"session": "s", "rollout_id": str(SESSION), "thumb": "up"}, None, "not both"),
        ({"rollout_id": "nope", "thumb": "up"}, "rollout_id", "UUID"),
        ({"completion_id": 7, "thumb": "up"}, "completion_id", "UUID"),
        ({"session": "s", "correction": ""}, "correction", "at least 1"),
        ({"session": "s", "comment": "x" * (MAX_TEXT + 1)}, "comment", "at most"),
        ({"session": "s", "name": "bad name", "value": 1}, "name", "pattern"),
        ({"session": "s", "name": "resolved"}, None, "belong together"),
        ({"session": "s", "value": 1}, None, "says nothing"),
        ({"session": "s", "thumb": "up", "outcome": "succeeded"}, None, "belong to finish"),
        ({"session": "s", "finish": True, "outcome": "fine"}, "outcome", "succeeded"),
        ({"session": "s", "thumb": "up", "rating": 5}, "rating", "not permitted"),
        ({"feedback": []}, "feedback", "at least 1"),
        ({"feedback": [{"session": "s", "thumb": "up"}, {"score": "x"}]}, "feedback[1].score", "number"),
        ({"feedback": [{"session": "s", "thumb": "up"}] * 4}, "feedback", "at most 3"),
        ({"feedback": [{"thumb": "up"}], "more": 1}, "more", "not permitted"),
        ({"thumb": "up"}, "feedback[0]", "about nothing"),
    ],
)
async def test_what_cannot_be_taken_says_where_and_why(body: object, where: str | None, why: str) -> None:
    front = Front()
    with pytest.raises(InvalidRequest, match=why) as refused:
        await front.give(body)
    assert refused.value.param == where
    assert refused.value.status == 400
    assert front.events == []


async def test_a_batch_is_recorded_whole_or_not_at_all() -> None:
    front = Front()
    items = [{"session": "s1", "thumb": "up"}, {"session": "s2", "score": 1.0}]
    answer = await front.give({"feedback": items})
    assert answer["object"] == "list"
    assert [one["rollout_id"] for one in answer["data"]] == [str(e.rollout_id) for e in front.events]
    with pytest.raises(CompletionNotFound):
        await front.give({"feedback": [*items, {"completion_id": str(uuid4()), "thumb": "up"}]})
    assert len(front.events) == 2


async def test_the_same_feedback_again_has_the_same_ids() -> None:
    front = Front()
    item = {"session": "s1", "thumb": "up", "comment": "good", "finish": True}
    first, again = await front.give(item), await front.give(item)
    assert first == again
    ids = [event.event_id for event in front.events]
    assert ids[:3] == ids[3:]
    assert len(set(ids)) == 3


async def test_an_id_of_the_callers_tells_feedback_apart() -> None:
    front = Front()
    for name in ("a", "b", "a"):
        await front.give({"session": "s1", "thumb": "up", "id": name})
    await front.give({"session": "s1", "thumb": "up"}, headers={"idempotency-key": "a"})
    await front.give({"session": "s1", "thumb": "down", "id": "a"})
    one, two, three, four, five = [event.event_id for event in front.events]
    assert one == three == five
    assert len({one, two, four}) == 3


async def test_tenants_do_not_share_ids() -> None:
    front = Front()
    for key in (KEY, OTHER):
        await front.give({"rollout_id": str(SESSION), "thumb": "up", "id": "a"}, key=key)
    first, second = front.events
    assert first.event_id != second.event_id
    assert (first.tenant, second.tenant) == ("shop", "other")


async def test_what_the_log_does_not_take_is_not_confirmed() -> None:
    class Away(MemoryPublisher):
        async def publish_encoded(self, *_: Any, **__: Any) -> None:
            raise PublishFailed("no broker")

    with pytest.raises(RecordingUnavailable, match="send it again"):
        await Front(Away()).give({"session": "s1", "thumb": "up"})


async def test_a_tenants_limit_counts_feedback_too() -> None:
    front = Front(limits={"shop": TenantLimits(requests_per_s=0.001, burst=1)})
    await front.give({"session": "s1", "thumb": "up"})
    with pytest.raises(RateLimited):
        await front.give({"session": "s1", "thumb": "down"})


async def test_texts_pass_the_redaction_hook() -> None:
    def hook(kind: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        assert kind == "feedback"
        if "comment" in payload:
            return None
        return {"correction": payload["correction"].replace("Ann", "…")}

    front = Front(redaction=Redaction(hook, timeout_s=1.0, keep_ids=False))
    await front.give({"session": "s1", "correction": "Ann paid"})
    await front.give({"session": "s1", "comment": "call Ann", "thumb": "up"})
    await front.give({"session": "s1", "score": 1.0})
    assert front.signals == [
        ("correction", 1.0, "… paid"),
        ("comment", None, "(redacted)"),
        ("thumb", 1.0, None),
        ("score", 1.0, None),
    ]


async def test_who_stops_sending_is_not_waited_for() -> None:
    front = Front()

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(_message: Any) -> None: ...

    scope = {"headers": [(b"authorization", f"Bearer {KEY}".encode())]}
    caller = Caller(scope, never, send, stall_timeout_s=1.0)
    with pytest.raises(ApiError, match="did not arrive"):
        await front.desk.take(NOTHING, caller, within_s=0.05)


def test_a_batch_of_one_is_a_batch() -> None:
    _items, batch = parse_items(b'{"feedback": [{"session": "s", "thumb": "up"}]}', at_most=1)
    assert batch


async def test_prompts_after_feedback_on_a_session_do_not_lean_on_those_before() -> None:
    front, completion_id = Front(), new_id()
    await front.give({"session": "s1", "completion_id": str(completion_id), "thumb": "up"})
    assert front.forgotten == []
    await front.give({"session": "s1", "thumb": "up"})
    assert front.forgotten == [(SESSION, 1)]
