"""Whose call it is, and when it is refused."""

from uuid import UUID, uuid4

import pytest

from leyden_gateway.attribution.scope import Attribution, PathScope, attribute, bearer_token
from leyden_gateway.errors import InvalidRolloutToken, MissingToken, WrongRollout
from leyden_platform.tokens import InvalidToken, RolloutClaims
from leyden_schemas import Sampling, Split, cause_id

ROLLOUT = UUID(int=1)
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


def verify(token: str) -> RolloutClaims:
    if token != "a.good.token":
        raise InvalidToken("not a valid rollout token")
    return CLAIMS


def whose(
    path: PathScope,
    authorization: str | None = "Bearer a.good.token",
    session: str | None = None,
    *,
    allow_anonymous: bool = False,
) -> Attribution:
    return attribute(
        path, authorization=authorization, session=session, verify=verify, allow_anonymous=allow_anonymous
    )


@pytest.mark.parametrize("path", [PathScope(), PathScope(ROLLOUT), PathScope(ROLLOUT, 2)])
def test_the_token_alone_attributes(path: PathScope) -> None:
    found = whose(path)
    assert (found.rollout_id, found.attempt, found.agent) == (ROLLOUT, 2, "main")
    assert (found.tenant, found.run, found.claims) == ("acme", "r1", CLAIMS)


def test_the_path_names_the_agent() -> None:
    assert whose(PathScope(ROLLOUT, 2, "critic")).agent == "critic"


@pytest.mark.parametrize("path", [PathScope(uuid4(), 2), PathScope(ROLLOUT, 1)])
def test_a_token_opens_its_own_attempt_only(path: PathScope) -> None:
    with pytest.raises(WrongRollout):
        whose(path)


@pytest.mark.parametrize("allow_anonymous", [True, False])
def test_a_forged_token_is_refused(allow_anonymous: bool) -> None:
    with pytest.raises(InvalidRolloutToken):
        whose(PathScope(), "Bearer a.forged.token", allow_anonymous=allow_anonymous)


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Basic YTpi"])
def test_without_a_token_calls_are_refused(authorization: str | None) -> None:
    with pytest.raises(MissingToken, match="Bearer"):
        whose(PathScope(), authorization)


def test_a_placeholder_key_is_not_a_token() -> None:
    with pytest.raises(InvalidRolloutToken):
        whose(PathScope(), "Bearer EMPTY")
    assert whose(PathScope(), "Bearer EMPTY", allow_anonymous=True).claims is None


def test_another_rollout_s_path_is_never_anonymous() -> None:
    with pytest.raises(MissingToken):
        whose(PathScope(ROLLOUT, 1), None, allow_anonymous=True)


def test_anonymous_calls_are_their_own_sessions() -> None:
    first, second = (whose(PathScope(), None, allow_anonymous=True) for _ in range(2))
    assert first.rollout_id != second.rollout_id
    assert (first.attempt, first.tenant, first.run) == (1, "default", "default")


def test_equal_session_headers_are_one_rollout() -> None:
    found = whose(PathScope(), None, "chat-7", allow_anonymous=True)
    assert found.rollout_id == cause_id("session", "chat-7")


@pytest.mark.parametrize(
    ("header", "token"), [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("abc", None), (None, None)]
)
def test_bearer(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token
