"""Whose call it is, and when it is refused."""

from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest

from leyden_gateway.attribution.keys import ApiKeys, KeyGrant
from leyden_gateway.attribution.model_names import ModelNames
from leyden_gateway.attribution.named import NOTHING, Named, Source
from leyden_gateway.attribution.paths import PathScope
from leyden_gateway.attribution.scope import Attribution, Rules, attribute, refine
from leyden_gateway.errors import InvalidRequest, InvalidRolloutToken, MissingToken, WrongRollout
from leyden_platform.tokens import InvalidToken, RolloutClaims
from leyden_schemas import Mode, Sampling, Split, cause_id

ROLLOUT, OTHER = UUID(int=1), UUID(int=2)
CLAIMS = RolloutClaims(
    rollout_id=ROLLOUT,
    attempt=2,
    tenant="acme",
    run="r1",
    policy="calculator",
    split=Split.TRAIN,
    sampling=Sampling(),
    max_completions=4,
)
TOKEN = {"authorization": "Bearer a.good.token"}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NAMES = ModelNames({"gpt-4o-mini": "calculator#canary/critic"}, known=lambda policy: policy == "calculator")


def grant(key: str, **fields: Any) -> KeyGrant:
    return KeyGrant(sha256=sha256(key.encode()).hexdigest(), **fields)


KEYS = ApiKeys(
    {
        "shop": grant("shop-key", tenant="shop", run="live"),
        "batch": grant("batch-key", tenant="shop", run="live", session="key", policy="calculator#stable"),
        "mesh": grant("mesh-key", tenant="shop", run="live", rollouts=True),
    },
    {},
)


def verify(token: bytes) -> RolloutClaims:
    match token:
        case b"a.good.token":
            return CLAIMS
        case b"an.eval.token":
            return CLAIMS.model_copy(update={"split": Split.EVAL})
        case _:
            raise InvalidToken("not a valid rollout token")


def whose(
    path: PathScope = NOTHING, headers: dict[str, str] = TOKEN, *, allow_anonymous: bool = False
) -> Attribution:
    raw = {name.encode(): value.encode() for name, value in headers.items()}
    return attribute(path, raw, Rules(verify, KEYS, allow_anonymous))


def key(name: str, **headers: str) -> dict[str, str]:
    own = {header.replace("_", "-"): value for header, value in headers.items()}
    return {"authorization": f"Bearer {name}-key", **own}


# --- rollout tokens


@pytest.mark.parametrize("path", [Named(), Named(ROLLOUT), Named(ROLLOUT, 2)])
def test_the_token_alone_attributes(path: PathScope) -> None:
    found = whose(path)
    assert (found.rollout_id, found.attempt, found.agent) == (ROLLOUT, 2, "main")
    assert (found.tenant, found.run, found.claims, found.policy) == ("acme", "r1", CLAIMS, "calculator")
    assert (found.mode, found.session, found.key) == (Mode.TRAINING, None, None)


def test_the_token_s_split_is_the_mode() -> None:
    assert whose(headers={"authorization": "Bearer an.eval.token"}).mode is Mode.EVALUATION


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "bearer  a.good.token "},
        {"x-api-key": "a.good.token"},
        {"api-key": "a.good.token"},
        {"authorization": "Bearer EMPTY", "x-api-key": "a.good.token"},
        {"authorization": "Basic YTpi", "x-api-key": "a.good.token"},
    ],
)
def test_the_token_is_found_where_client_libraries_put_it(headers: dict[str, str]) -> None:
    assert whose(headers=headers).claims == CLAIMS


OTHERS: list[tuple[PathScope, dict[str, str]]] = [
    (Named(OTHER, 2), {}),
    (Named(ROLLOUT, 1), {}),
    (NOTHING, {"x-leyden-rollout-id": str(OTHER)}),
    (NOTHING, {"x-leyden-attempt": "1"}),
    (Named(ROLLOUT, 2), {"x-leyden-rollout-id": str(OTHER)}),
    (NOTHING, {"baggage": f"leyden.rollout_id={OTHER}"}),
    (NOTHING, {"baggage": "leyden.attempt=3"}),
]


@pytest.mark.parametrize(("path", "headers"), OTHERS)
def test_a_token_opens_its_own_attempt_only(path: PathScope, headers: dict[str, str]) -> None:
    with pytest.raises(WrongRollout):
        whose(path, TOKEN | headers)


def test_naming_the_token_s_own_attempt_is_fine() -> None:
    named = {"x-leyden-rollout-id": str(ROLLOUT), "x-leyden-attempt": "2"}
    assert whose(headers=TOKEN | named | {"baggage": f"leyden.rollout_id={ROLLOUT},leyden.attempt=2"}).claims


@pytest.mark.parametrize("allow_anonymous", [True, False])
def test_a_forged_token_is_refused(allow_anonymous: bool) -> None:
    with pytest.raises(InvalidRolloutToken):
        whose(headers={"authorization": "Bearer a.forged.token"}, allow_anonymous=allow_anonymous)


@pytest.mark.parametrize(
    ("path", "headers", "model", "agent", "source"),
    [
        (Named(agent="a"), {"x-leyden-agent": "b", "baggage": "leyden.agent=c"}, "gpt-4o-mini", "a", "path"),
        (NOTHING, {"x-leyden-agent": "b", "baggage": "leyden.agent=c"}, "gpt-4o-mini", "b", "header"),
        (NOTHING, {"baggage": "leyden.agent=c"}, "gpt-4o-mini", "c", "baggage"),
        (NOTHING, {}, "gpt-4o-mini", "critic", "body"),
        (NOTHING, {}, "calculator/planner", "planner", "body"),
        (NOTHING, {}, "openai/gpt-4o", "main", "default"),
        (NOTHING, {}, None, "main", "default"),
    ],
)
def test_the_agent_role_in_order_of_authority(
    path: PathScope, headers: dict[str, str], model: str | None, agent: str, source: str
) -> None:
    found = refine(whose(path, TOKEN | headers), model, None, NAMES)
    assert (found.agent, found.agent_from, found.policy) == (agent, source, "calculator")


def test_a_rollout_has_no_session() -> None:
    named = whose(Named(session="s"), TOKEN | {"x-leyden-session": "t", "traceparent": TRACEPARENT})
    found = refine(named, None, "alice", NAMES)
    assert (found.rollout_id, found.session) == (ROLLOUT, None)


# --- API keys of production traffic


def test_a_key_names_tenant_and_run() -> None:
    found = whose(headers={"x-api-key": "shop-key"})
    assert (found.tenant, found.run, found.key, found.mode) == ("shop", "live", "shop", Mode.PRODUCTION)
    assert (found.claims, found.attempt, found.session, found.policy) == (None, 1, None, "")


@pytest.mark.parametrize(
    ("path", "headers", "user", "session"),
    [
        (Named(session="p"), {"x_leyden_session": "h"}, "u", "p"),
        (NOTHING, {"x_leyden_session": "h", "baggage": "leyden.session=b"}, "u", "h"),
        (NOTHING, {"baggage": "leyden.session=b%20c"}, "u", "b c"),
        (NOTHING, {"traceparent": TRACEPARENT}, "u", "u"),
        (NOTHING, {"traceparent": TRACEPARENT}, None, "4bf92f3577b34da6a3ce929d0e0e4736"),
        (NOTHING, {"baggage": f"leyden.rollout_id={OTHER}"}, "u", str(OTHER)),
    ],
)
def test_the_session_in_order_of_authority(
    path: PathScope, headers: dict[str, str], user: str | None, session: str
) -> None:
    found = refine(whose(path, key("shop", **headers)), "calculator", user, NAMES)
    assert found.session == session
    assert found.rollout_id == cause_id("session", "shop", "live", session)


def test_a_key_may_be_a_session_unless_another_is_named() -> None:
    found = whose(headers=key("batch", traceparent=TRACEPARENT))
    assert found.session == "key:batch"
    assert found.rollout_id == cause_id("session", "shop", "live", "key:batch")
    assert refine(found, None, "alice", NAMES).session == "alice"


def test_what_names_no_session_is_its_own() -> None:
    first, second = whose(headers=key("shop")), whose(headers=key("shop"))
    assert first.rollout_id != second.rollout_id
    assert refine(first, "calculator", None, NAMES).rollout_id == first.rollout_id


@pytest.mark.parametrize(
    ("name", "model", "policy", "agent"),
    [
        ("shop", "calculator@7", "calculator@7", "main"),
        ("shop", "calculator#canary/planner", "calculator#canary", "planner"),
        ("shop", "gpt-4o-mini", "calculator#canary", "critic"),
        ("shop", "openai/gpt-4o", "openai/gpt-4o", "main"),
        ("batch", "gpt-4o-mini", "calculator#stable", "critic"),
        ("batch", "anything", "calculator#stable", "main"),
    ],
)
def test_what_a_model_name_resolves_to(name: str, model: str, policy: str, agent: str) -> None:
    found = refine(whose(headers=key(name)), model, None, NAMES)
    assert (found.policy, found.agent) == (policy, agent)


@pytest.mark.parametrize(
    ("path", "headers"), [(Named(OTHER, 1), {}), (NOTHING, {"x_leyden_rollout_id": str(OTHER)})]
)
def test_a_key_names_rollouts_only_with_the_right_to(path: PathScope, headers: dict[str, str]) -> None:
    with pytest.raises(WrongRollout, match='"rollouts": true'):
        whose(path, key("shop", **headers))
    found = whose(path, key("mesh", **headers))
    assert (found.rollout_id, found.attempt, found.tenant) == (OTHER, 1, "shop")
    assert refine(found, None, "alice", NAMES).rollout_id == OTHER


def test_baggage_may_name_a_rollout_too() -> None:
    found = whose(headers=key("mesh", baggage=f"leyden.rollout_id={OTHER},leyden.attempt=3"))
    assert (found.rollout_id, found.attempt, found.rollout_from) == (OTHER, 3, Source.BAGGAGE)


# --- neither


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Basic YTpi"])
def test_without_a_key_calls_are_refused(authorization: str | None) -> None:
    with pytest.raises(MissingToken, match="Bearer"):
        whose(headers={"authorization": authorization} if authorization else {})


def test_a_placeholder_key_is_not_a_token() -> None:
    placeholder = {"authorization": "Bearer EMPTY"}
    with pytest.raises(InvalidRolloutToken, match="neither a rollout token nor an API key"):
        whose(headers=placeholder)
    assert whose(headers=placeholder, allow_anonymous=True).claims is None


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (Named(ROLLOUT, 1), {}),
        (NOTHING, {"x-leyden-rollout-id": str(ROLLOUT)}),
        (Named(ROLLOUT, 1), {"authorization": "Bearer EMPTY"}),
    ],
)
def test_another_rollout_is_never_anonymous(path: PathScope, headers: dict[str, str]) -> None:
    with pytest.raises(MissingToken):
        whose(path, headers, allow_anonymous=True)


def test_anonymous_calls_are_their_own_sessions() -> None:
    first, second = (whose(headers={}, allow_anonymous=True) for _ in range(2))
    assert first.rollout_id != second.rollout_id
    assert (first.attempt, first.tenant, first.run) == (1, "default", "default")


def test_equal_session_headers_are_one_rollout() -> None:
    found = whose(headers={"x-leyden-session": "chat-7"}, allow_anonymous=True)
    assert found.rollout_id == cause_id("session", "default", "default", "chat-7")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-leyden-rollout-id", "7"),
        ("x-leyden-attempt", "0"),
        ("x-leyden-attempt", "two"),
        ("x-leyden-agent", "the critic"),
        ("x-leyden-session", "s" * 513),
        ("x-leyden-session", "a\x00b"),
    ],
)
def test_a_bad_header_is_named(header: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"header {header}"):
        whose(headers=TOKEN | {header: value})


@pytest.mark.parametrize(
    "baggage", ["leyden.rollout_id=7", "leyden.attempt=x", "leyden.agent=%00", "leyden.", ",;=,leyden.agent"]
)
def test_ambient_baggage_that_makes_no_sense_is_passed_over(baggage: str) -> None:
    found = whose(headers=TOKEN | {"baggage": baggage})
    assert (found.rollout_id, found.agent) == (ROLLOUT, "main")
