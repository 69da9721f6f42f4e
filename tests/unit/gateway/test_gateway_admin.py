"""The operator's routes: who may use them, what they show and what they move."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from leyden_gateway.control.admin import admin_server, create_admin
from leyden_gateway.control.calls import Calls
from leyden_gateway.control.limits import TenantLimiter
from leyden_gateway.control.pause import Pause
from leyden_gateway.control.settings import ControlSettings, TenantLimits
from leyden_gateway.control.views import Controls, PolicyView, SpoolView
from leyden_gateway.errors import GatewayPaused, RateLimited
from leyden_gateway.routing.choice import PolicyTable

TOKEN = "an admin token of length"
REPLICA = "http://inference:8001"


@dataclass
class Replicas:
    draining: set[str] = field(default_factory=set)

    def describe(self) -> list[dict[str, Any]]:
        return [{"url": REPLICA, "draining": REPLICA in self.draining}]

    def drain(self, url: str) -> None:
        self._known(url)
        self.draining.add(url)

    def undrain(self, url: str) -> None:
        self._known(url)
        self.draining.discard(url)

    def _known(self, url: str) -> None:
        if url != REPLICA:
            raise LookupError(f"no replica has the base URL {url!r}")


@dataclass
class Models:
    table: PolicyTable


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture
def controls() -> Controls:
    models = Models(PolicyTable({"calculator": {2, 1}}, {"calculator": {"serving": 2}}))
    limiter = TenantLimiter({"acme": TenantLimits(requests_per_s=1, burst=5)}, CLOCK)
    return Controls(Replicas(), PolicyView(models), SpoolView(), Calls(CLOCK), limiter, Pause())


@pytest.fixture
async def admin(controls: Controls) -> AsyncIterator[httpx.AsyncClient]:
    app = create_admin(controls, SecretStr(TOKEN))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://admin/admin/v1",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:
        yield client


@pytest.mark.parametrize(
    "authorization", ["", "Bearer ", "Bearer another token altogether", TOKEN, "Bearer \xff"]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/replicas"), ("POST", "/pause"), ("GET", "/spool")])
async def test_every_route_asks_for_the_token(
    admin: httpx.AsyncClient, controls: Controls, authorization: str, method: str, path: str
) -> None:
    header = httpx.Headers({b"authorization": authorization.encode("latin-1")})
    answer = await admin.request(method, path, headers=header)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_admin_token")
    assert not controls.pause.paused


async def test_replicas_are_drained_and_come_back(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/replicas")).json() == {"replicas": [{"url": REPLICA, "draining": False}]}
    drained = await admin.post("/replicas/drain", json={"replica": f"{REPLICA}/"})
    assert drained.json()["replicas"][0]["draining"] is True
    back = await admin.post("/replicas/undrain", json={"replica": REPLICA})
    assert back.json()["replicas"][0]["draining"] is False


@pytest.mark.parametrize(
    ("content", "status", "code", "text"),
    [
        (b'{"replica": "http://nobody"}', 404, "replica_not_found", "no replica has the base URL"),
        (b'{"replica": 7}', 400, "invalid_request", "replica: Input should be a valid string"),
        (b"{}", 400, "invalid_request", "replica: Field required"),
        (b"not JSON", 400, "invalid_request", "Invalid JSON"),
        (b" " * 65537, 413, "request_too_large", "65536 bytes"),
    ],
)
async def test_bad_requests_are_explained(
    admin: httpx.AsyncClient, content: bytes, status: int, code: str, text: str
) -> None:
    answer = await admin.post("/replicas/drain", content=content)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert text in error["message"]


async def test_policies(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/policies")).json() == {
        "policies": [{"policy": "calculator", "versions": [1, 2], "aliases": {"serving": 2}, "weights": {}}]
    }


async def test_calls_in_flight(
    admin: httpx.AsyncClient, controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [UUID(int=number) for number in range(4)]
    for number in range(3):
        monkeypatch.setattr(CLOCK, "now", 10.0 + number)
        controls.calls.begin(ids[number], ids[3], "chat" if number else "messages", "acme")
    controls.calls.end(ids[2])
    controls.calls.end(ids[2])
    assert len(controls.calls) == 2
    monkeypatch.setattr(CLOCK, "now", 15.0)
    found = (await admin.get("/calls")).json()
    assert found["in_flight"] == 2
    assert found["by"] == [
        {"protocol": "chat", "tenant": "acme", "calls": 1, "oldest_s": 4.0},
        {"protocol": "messages", "tenant": "acme", "calls": 1, "oldest_s": 5.0},
    ]
    assert [(call["completion_id"], call["age_s"]) for call in found["oldest"]] == [
        (str(ids[0]), 5.0),
        (str(ids[1]), 4.0),
    ]


async def test_limits_are_shown_and_set(admin: httpx.AsyncClient, controls: Controls) -> None:
    shown = (await admin.get("/tenants/acme/limits")).json()
    assert shown == {
        "tenant": "acme",
        "limits": {"requests_per_s": 1.0, "burst": 5},
        "left": {"in_flight": 0, "requests": 5.0},
    }
    assert (await admin.get("/tenants/other/limits")).json()["limits"] == {}
    put = await admin.put("/tenants/other/limits", json={"max_in_flight": 1})
    assert put.json() == {"tenant": "other", "limits": {"max_in_flight": 1}, "left": {"in_flight": 0}}
    controls.limiter.admit("other")
    with pytest.raises(RateLimited):
        controls.limiter.admit("other")
    assert (await admin.put("/tenants/*/limits", json={"tokens_per_minute": 60})).status_code == 200
    assert (await admin.get("/tenants/anyone/limits")).json()["left"] == {"in_flight": 0, "tokens": 60.0}


@pytest.mark.parametrize(
    ("tenant", "body", "text"),
    [
        ("acme", {"requests_per_s": -1}, "requests_per_s: Input should be greater than 0"),
        ("acme", {"rps": 1}, "rps: Extra inputs are not permitted"),
        ("the acme", {}, "not the name of a tenant"),
    ],
)
async def test_bad_limits_are_explained(
    admin: httpx.AsyncClient, tenant: str, body: dict[str, Any], text: str
) -> None:
    answer = await admin.put(f"/tenants/{tenant}/limits", json=body)
    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]


async def test_pause_and_resume(admin: httpx.AsyncClient, controls: Controls) -> None:
    assert (await admin.post("/pause")).json() == {"paused": True, "waiting": 0}
    waiting = asyncio.create_task(controls.pause.resumed(20))
    await asyncio.sleep(0)
    assert (await admin.get("/pause")).json() == {"paused": True, "waiting": 1}
    assert (await admin.post("/resume")).json()["paused"] is False
    await waiting
    await controls.pause.resumed(0)
    assert (await admin.get("/pause")).json() == {"paused": False, "waiting": 0}


async def test_a_pause_is_waited_out_for_so_long_only() -> None:
    pause = Pause()
    pause.pause()
    with pytest.raises(GatewayPaused, match="operator") as error:
        await pause.resumed(0.01)
    assert (error.value.status, error.value.reason, pause.waiting) == (503, "gateway_paused", 0)
    pause.resume()


async def test_there_is_no_spool_to_show(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/spool")).json() == {"enabled": False}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "not_found"), ("DELETE", "/replicas", 405, "method_not_allowed")],
)
async def test_other_routes(admin: httpx.AsyncClient, method: str, path: str, status: int, code: str) -> None:
    answer = await admin.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("path", "allowed"), [("/replicas", "GET, HEAD"), ("/pause", "GET, HEAD, POST"), ("/resume", "POST")]
)
async def test_another_method_is_told_which_to_use(admin: httpx.AsyncClient, path: str, allowed: str) -> None:
    answer = await admin.request("DELETE", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_without_a_token_there_is_no_admin_port(
    controls: Controls, capfd: pytest.CaptureFixture[str]
) -> None:
    assert admin_server(ControlSettings(), controls, drain_timeout_s=1) is None
    assert "admin_disabled" in "".join(capfd.readouterr())


async def test_the_admin_port_serves(controls: Controls) -> None:
    settings = ControlSettings(admin_port=0, admin_token=SecretStr(TOKEN))
    server = admin_server(settings, controls, drain_timeout_s=5)
    assert server is not None
    stop = asyncio.Event()
    running = asyncio.create_task(server.run(stop))
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as client:
        answer = await client.get(f"http://127.0.0.1:{server.port}/admin/v1/pause")
    assert answer.json() == {"paused": False, "waiting": 0}
    stop.set()
    await asyncio.wait_for(running, 10)
