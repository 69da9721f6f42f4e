"""What the learner makes of the registry's answers."""

from pathlib import Path
from uuid import UUID

import httpx
import pytest

from leyden_learner.registry import (
    PolicyMissing,
    Registration,
    RegistryClient,
    RegistryRefused,
    RegistryUnavailable,
)
from leyden_learner.testing import RegistryStub

REGISTRATION = Registration(
    version_id=UUID(int=1),
    artifact="file:///nowhere",
    parent=0,
    step=1,
    run="default",
    tenant="default",
    metrics={"loss": 0.5},
    aliases=["latest"],
)


def client(transport: httpx.AsyncBaseTransport) -> RegistryClient:
    """A client of a registry that is not there."""
    return RegistryClient(httpx.AsyncClient(transport=transport, base_url="http://registry"))


def answering(status: int) -> RegistryClient:
    """A client whose every request is answered with this status."""
    return client(httpx.MockTransport(lambda _request: httpx.Response(status, json={"error": "because"})))


async def test_the_latest_version_and_where_it_lies(model_folder: Path) -> None:
    registry = client(httpx.ASGITransport(RegistryStub("tiny", model_folder).app))
    latest = await registry.latest("tiny")
    assert (latest.version, latest.artifact) == (0, model_folder.as_uri())


async def test_registering_twice_gives_the_same_version(model_folder: Path) -> None:
    registry = client(httpx.ASGITransport(RegistryStub("tiny", model_folder).app))
    registration = REGISTRATION.model_copy(update={"artifact": model_folder.as_uri()})
    assert [await registry.register("tiny", registration) for _ in range(2)] == [1, 1]


async def test_an_unknown_policy_is_worth_waiting_for() -> None:
    with pytest.raises(PolicyMissing):
        await client(httpx.ASGITransport(RegistryStub("tiny", None).app)).latest("tiny")


@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
async def test_what_may_pass_is_unavailable(status: int) -> None:
    with pytest.raises(RegistryUnavailable, match=str(status)):
        await answering(status).register("tiny", REGISTRATION)


async def test_a_page_of_something_in_between_is_no_answer() -> None:
    """A proxy that says 200 for a registry that is away must not end training."""
    page = httpx.MockTransport(lambda _request: httpx.Response(200, html="<h1>Back soon</h1>"))
    with pytest.raises(RegistryUnavailable, match=r"Back soon.*not JSON"):
        await client(page).register("tiny", REGISTRATION)


@pytest.mark.parametrize("status", [400, 409, 422])
async def test_what_is_wrong_is_refused(status: int) -> None:
    with pytest.raises(RegistryRefused, match="because"):
        await answering(status).register("tiny", REGISTRATION)


async def test_no_answer_names_the_address() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(RegistryUnavailable, match=r"http://registry.*LEYDEN_LEARNER_REGISTRY_URL.*refused"):
        await client(httpx.MockTransport(refuse)).latest("tiny")
