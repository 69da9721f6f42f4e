"""What paths, headers, baggage and bodies name; whatever they hold, never an unexpected exception."""

import contextlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from leyden_gateway.attribution.body import session_of, user_of
from leyden_gateway.attribution.context import baggage, named_by_baggage, named_by_headers, trace_id
from leyden_gateway.attribution.named import NOTHING, Named, agent_or_none, session_or_none
from leyden_gateway.attribution.paths import parse_path
from leyden_gateway.errors import InvalidRequest, NoSuchRoute
from leyden_schemas.base import Name

ID = "01234567-89ab-cdef-0123-456789abcdef"
NAME = TypeAdapter(Name)


@pytest.mark.parametrize(
    ("path", "scope", "rest"),
    [
        ("/v1/chat/completions", NOTHING, "/v1/chat/completions"),
        (f"/rollouts/{ID}/attempts/2/v1/models", Named(UUID(ID), 2), "/v1/models"),
        (f"/rollouts/{ID}/attempts/2/agents/critic/v1/x", Named(UUID(ID), 2, "critic"), "/v1/x"),
        (f"/rollouts/{ID}/attempts/2/", Named(UUID(ID), 2), "/"),
        (f"//rollouts/{ID.upper()}/attempts/12//v1/x", Named(UUID(ID), 12), "/v1/x"),
        ("/sessions/chat%207/v1/messages", Named(session="chat 7"), "/v1/messages"),
        ("/sessions/caf%C3%A9/v1/m", Named(session="café"), "/v1/m"),
        ("/sessions/a%2Fb/agents/x%3Ay/v1/m", Named(agent="x:y", session="a/b"), "/v1/m"),
        ("/elsewhere", NOTHING, "/elsewhere"),
        ("", NOTHING, ""),
    ],
)
def test_paths(path: str, scope: Named, rest: str) -> None:
    assert parse_path(path) == (scope, rest)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/rollouts/7/attempts/1/v1/x", "'7' in the path is not a rollout id"),
        (f"/rollouts/{ID}/attempts/0/v1/x", "'0' in the path is not an attempt"),
        (f"/rollouts/{ID}/attempts/-1/v1/x", "not an attempt"),
        (f"/rollouts/{ID}/attempts/٣/v1/x", "not an attempt"),
        (f"/rollouts/{ID}/attempts/{'9' * 5000}/v1/x", "not an attempt"),
        (f"/rollouts/{ID}/v1/x", r"/rollouts/\{id\}/attempts/\{n\}"),
        ("/rollouts", "a rollout's path is"),
        (f"/rollouts/{ID}/attempts/1/agents/the%20critic/v1/x", "not an agent"),
        ("/sessions/%00/v1/x", "not a session"),
        ("/sessions/%ff/v1/x", "'%ff' in the path is not a session: .* percent-encoded UTF-8"),
        ("/sessions/a%fe/v1/x", "not a session"),
        ("/sessions/%C3/v1/x", "not a session"),
        (f"/rollouts/{ID}/attempts/1/agents/a%ff/v1/x", "not an agent"),
        ("/sessions", "a session's path is"),
    ],
)
def test_bad_paths_are_explained(path: str, hint: str) -> None:
    with pytest.raises(NoSuchRoute, match=hint):
        parse_path(path)


KNOWN = ["rollouts", "attempts", "agents", "sessions", "v1", "1", "%ff", ID]
SEGMENT = st.sampled_from(KNOWN) | st.text(max_size=5)


@given(st.lists(SEGMENT, max_size=8).map("/".join))
def test_any_path_is_read_or_refused(path: str) -> None:
    try:
        _, rest = parse_path(path)
    except NoSuchRoute:
        return
    assert isinstance(rest, str)


@given(st.text(max_size=8))
def test_agents_have_the_names_that_schemas_accept(text: str) -> None:
    try:
        NAME.validate_python(text)
    except ValidationError:
        assert agent_or_none(text) is None
    else:
        assert agent_or_none(text) == text


def test_baggage_is_percent_decoded_and_loses_its_properties() -> None:
    members = baggage("a = x%20y ;ttl=3;flag,b=1%2C2, c=%ff ,d,=e,a=last")
    assert members == {"a": "last", "b": "1,2", "": "e"}


@pytest.mark.parametrize("session", ["%ff", "%fe", "a%c3"])
def test_a_session_of_the_baggage_that_is_not_utf_8_is_passed_over(session: str) -> None:
    raw = f"leyden.session={session},leyden.agent=critic"
    assert named_by_baggage({b"baggage": raw.encode()}) == Named(agent="critic")


def test_baggage_names_every_part() -> None:
    raw = f"user=x,leyden.rollout_id={ID};p=1,leyden.attempt=3,leyden.agent=critic,leyden.session=a%20b"
    assert named_by_baggage({b"baggage": raw.encode()}) == Named(UUID(ID), 3, "critic", "a b")


def test_headers_name_every_part() -> None:
    headers = {
        b"x-leyden-rollout-id": ID.encode(),
        b"x-leyden-attempt": b" 3 ",
        b"x-leyden-agent": b"critic",
        b"x-leyden-session": "Zürich".encode(),
    }
    assert named_by_headers(headers) == Named(UUID(ID), 3, "critic", "Zürich")
    assert named_by_headers({b"x-leyden-session": "Zürich".encode("latin-1")}).session == "Zürich"


NAMES = st.sampled_from(
    [b"baggage", b"traceparent", b"x-leyden-session", b"x-leyden-agent", b"x-leyden-rollout-id"]
)
PIECES = [b"leyden.agent", b"leyden.rollout_id", b"=", b",", b";", b"%", b"a", b"\xff", ID.encode()]
NEAR = st.binary(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@given(st.dictionaries(NAMES, NEAR))
def test_any_header_is_read_refused_or_passed_over(headers: dict[bytes, bytes]) -> None:
    trace_id(headers)
    named_by_baggage(headers)
    with contextlib.suppress(InvalidRequest):
        named_by_headers(headers)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", "4bf92f3577b34da6a3ce929d0e0e4736"),
        (b"00-00000000000000000000000000000000-00f067aa0ba902b7-01", None),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", None),
        (b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None),
        (b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", None),
        (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", None),
        (b"4bf92f3577b34da6a3ce929d0e0e4736", None),
        (b"", None),
    ],
)
def test_trace_ids(raw: bytes, found: str | None) -> None:
    assert trace_id({b"traceparent": raw}) == found


@pytest.mark.parametrize(
    ("request_", "session"),
    [
        ({"user": "u"}, "u"),
        ({"user": "u", "metadata": {"session_id": "m"}}, "m"),
        ({"user": "u", "conversation": "c", "metadata": {"session_id": "m"}}, "c"),
        ({"conversation": {"id": "conv_1"}}, "conv_1"),
        ({"metadata": {"user_id": "claude"}}, "claude"),
        ({"user": 7, "metadata": "m", "conversation": []}, None),
        ({"user": "  ", "metadata": {"session_id": None, "user_id": "x" * 513}}, None),
        ({}, None),
    ],
)
def test_bodies(request_: dict[str, object], session: str | None) -> None:
    assert session_of(request_) == session


@pytest.mark.parametrize(
    ("request_", "user"),
    [
        ({"user": "u", "metadata": {"user_id": "m"}}, "u"),
        ({"metadata": {"user_id": "m"}}, "m"),
        ({"metadata": "m"}, None),
        ({}, None),
    ],
)
def test_the_end_user(request_: dict[str, object], user: str | None) -> None:
    assert user_of(request_) == user


@given(st.text())
def test_sessions_are_printable(text: str) -> None:
    found = session_or_none(text)
    assert found is None or (found.isprintable() and found == text.strip())


def test_a_lone_surrogate_is_no_session() -> None:
    assert session_or_none("\ud800") is None
