"""External models: their settings, their keys, what is sent to them and what is said about them."""

import asyncio
import json
from typing import Any, cast
from uuid import uuid4

import pytest
from pydantic import ValidationError
from routing_fakes import A, FakeAnswer, FakeCall, Sent, fleet, refuses, until

from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.errors import InvalidRequest, ReplicasBusy, UpstreamTimedOut
from leyden_gateway.routing.catalogue import Catalogue
from leyden_gateway.routing.externals import External, Externals
from leyden_gateway.routing.settings import RoutingSettings
from leyden_gateway.upstream.errors import UpstreamRefused

URL = "https://api.example.com/v1"
KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")


def settings(**external: Any) -> RoutingSettings:
    """One external model, ``judge``."""
    return RoutingSettings.model_validate({"externals": {"judge": {"base_url": URL, **external}}})


def judge(**external: Any) -> External:
    found = Externals(settings(**external), lambda: None).find("judge")
    assert found
    return found


def test_they_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"judge": {"base_url": URL + "/", "model": "gpt-4.1", "api_key_env": "JUDGE_KEY"}}
    monkeypatch.setenv("LEYDEN_GATEWAY_EXTERNALS", json.dumps(value))
    read = RoutingSettings().externals["judge"]
    assert (read.base_url, read.model) == (URL, "gpt-4.1")
    assert read.key is not None
    assert read.key.get_secret_value() == KEY
    assert KEY not in repr(RoutingSettings())
    assert KEY not in RoutingSettings().model_dump_json()


@pytest.mark.parametrize(
    ("external", "hint"),
    [
        (
            {"api_key_env": "NO_SUCH_KEY"},
            "environment variable NO_SUCH_KEY is not set.*https://api.example.com",
        ),
        ({"api_key": "sk-1"}, "Extra inputs"),
        ({"base_url": "api.example.com/v1"}, "not a base URL"),
        ({"base_url": "ftp://api.example.com"}, "not a base URL"),
        ({"base_url": "https://me:pw@api.example.com/v1"}, "no credentials"),
        ({"base_url": "https://api.example.com/v1?key=1"}, "no credentials, query"),
        ({"headers": {"x y": "1"}}, "'x y' is not a header"),
        ({"headers": {"x": "1\r\nhost: evil"}}, "'x' is not a header"),
        ({"headers": {"Host": "elsewhere"}}, "'Host' is set by the gateway itself"),
        ({"protocols": []}, "at least 1"),
        ({"protocols": ["messages"]}, "'chat', 'completions' or 'embeddings'"),
        ({"max_concurrency": 0}, "greater than or equal to 1"),
        ({"begin_timeout_s": 0}, "greater than 0"),
    ],
)
def test_bad_settings_are_explained(external: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError, match=hint) as caught:
        settings(**external)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "#judge", "ju@dge", "x" * 201, "-x"])
def test_bad_names_are_explained(name: str) -> None:
    with pytest.raises(ValidationError, match="is no name for a model"):
        RoutingSettings.model_validate({"externals": {name: {"base_url": URL}}})


def test_they_are_found_by_name_and_tenant() -> None:
    externals = Externals(settings(tenants=["acme"]), lambda: None)
    assert externals.find("judge", "acme") is not None
    assert externals.find("judge") is None
    assert externals.find("other", "acme") is None
    assert externals.find(None, "acme") is None
    assert externals.find(["judge"], "acme") is None
    assert [external.name for external in externals.open_to("acme")] == ["judge"]
    assert externals.open_to("default") == []


def test_a_path_lies_below_the_base_url() -> None:
    assert judge().path("/v1/chat/completions") == "/chat/completions"


@pytest.mark.parametrize(
    ("external", "headers"),
    [
        ({}, {}),
        ({"api_key_env": "JUDGE_KEY"}, {"authorization": f"Bearer {KEY}"}),
        ({"api_key_env": "JUDGE_KEY", "key_header": "Api-Key"}, {"api-key": KEY}),
        (
            {"api_key_env": "JUDGE_KEY", "headers": {"X-Team": "rl"}},
            {"authorization": f"Bearer {KEY}", "x-team": "rl"},
        ),
    ],
)
def test_headers(external: dict[str, Any], headers: dict[str, str]) -> None:
    assert judge(**external).headers() == headers


def test_protocols() -> None:
    assert [judge(protocols=["chat"]).speaks(one) for one in ("chat", "embeddings")] == [True, False]


@pytest.mark.parametrize(
    ("protocols", "path", "spoken"),
    [
        (["chat"], "/v1/chat/completions", True),
        (["completions"], "/v1/chat/completions", False),
        (["chat", "completions"], "/v1/embeddings", False),
        (["chat"], "/v1/audio/speech", False),
    ],
)
async def test_what_a_server_does_not_speak_is_refused(
    protocols: list[str], path: str, *, spoken: bool
) -> None:
    external = judge(protocols=protocols)
    if spoken:
        external.check(path)
        return
    with pytest.raises(InvalidRequest, match=f"'judge' is not served at {path}; .* {', '.join(protocols)}"):
        external.check(path)


async def test_a_call_in_another_protocol_is_not_sent() -> None:
    async with fleet(A, externals={"judge": {"base_url": URL, "protocols": ["completions"]}}) as routes:
        call = FakeCall()
        with pytest.raises(InvalidRequest):
            await routes.open(call, routes.externals.find("judge"))
        assert (routes.upstream.sent, call.choice) == ([], None)


async def test_a_call_is_sent_with_the_key_and_the_servers_own_model_name() -> None:
    configured = {"judge": {"base_url": URL, "model": "gpt-4.1", "api_key_env": "JUDGE_KEY"}}
    async with fleet(A, externals=configured) as routes:
        call = FakeCall()
        answer = await routes.open(call, routes.externals.find("judge"))
        (sent,) = routes.upstream.sent
        assert (sent.url, sent.path, sent.body) == (URL, "/chat/completions", b"to gpt-4.1")
        assert sent.headers == {"authorization": f"Bearer {KEY}"}
        assert call.choice
        assert (call.choice.replica, call.choice.policy, call.choice.version) == (URL, "external:judge", None)
        assert call.choice.model == "external:judge"
        answer.close()


async def test_they_are_retried_and_left_alone_like_replicas() -> None:
    async with fleet(A, attempts=2, park_timeout_s=5, breaker_failures=2, breaker_open_s=0.02,
                     externals={"judge": {"base_url": URL}}) as routes:  # fmt: skip
        external = routes.externals.find("judge")
        assert external
        routes.upstream.answers[URL] = refuses(503, b"busy")
        with pytest.raises(UpstreamRefused):
            await routes.open(FakeCall(), external)
        assert routes.upstream.urls() == [URL, URL]
        assert external.lane.breaker.state.name != "CLOSED"
        routes.upstream.answers.clear()
        await routes.open(FakeCall(), external)
        assert external.lane.breaker.state.name == "CLOSED"


async def test_their_concurrency_is_bounded() -> None:
    configured = {"judge": {"base_url": URL, "max_concurrency": 1}}
    async with fleet(A, park_timeout_s=0.05, externals=configured) as routes:
        external = routes.externals.find("judge")
        assert external
        answer = await routes.open(FakeCall(), external)
        with pytest.raises(ReplicasBusy, match=r"external:judge \(1\)"):
            await routes.open(FakeCall(), external)
        waiting = asyncio.create_task(routes.open(FakeCall(), external))
        await until(lambda: external.lane.waiting == 1)
        answer.close()
        await waiting


async def test_an_answer_that_does_not_begin_in_time() -> None:
    async def never(_sent: Sent) -> FakeAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    async with fleet(A, externals={"judge": {"base_url": URL, "begin_timeout_s": 0.02}}) as routes:
        routes.upstream.answers[URL] = never
        external = routes.externals.find("judge")
        with pytest.raises(UpstreamTimedOut, match="external:judge did not begin to answer"):
            await routes.open(FakeCall(), external)
        assert external is not None
        assert external.lane.in_flight == 0
        assert routes.upstream.sent[0].cancelled


async def test_a_404_of_theirs_is_passed_on() -> None:
    async with fleet(A, externals={"judge": {"base_url": URL}}) as routes:
        routes.upstream.answers[URL] = refuses(404, b"external:judge judge does not exist")
        with pytest.raises(UpstreamRefused):
            await routes.open(FakeCall(), routes.externals.find("judge"))
        assert len(routes.upstream.sent) == 1


async def test_the_catalogue_lists_them_for_whom_they_are() -> None:
    configured = {"judge": {"base_url": URL}, "secret": {"base_url": URL, "tenants": ["acme"]}}
    async with fleet(A, externals=configured) as routes:
        catalogue = Catalogue(routes.models, routes.replicas, routes.externals)
        whose = cast("Attribution", Whose("default"))
        listed = {(str(model["id"]), str(model["owned_by"])) for model in catalogue.models(whose)}
        assert listed == {
            ("calculator", "leyden"),
            ("calculator#serving", "leyden"),
            ("calculator@1", "leyden"),
            ("judge", "external"),
        }
        names = [model["id"] for model in catalogue.models(cast("Attribution", Whose("acme")))]
        assert names[-2:] == ["judge", "secret"]


class Whose:
    """An attribution without a token."""

    claims = None
    rollout_id = uuid4()

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
