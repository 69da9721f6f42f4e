"""The parts of a service that drives vLLM, put together."""

import secrets
from collections.abc import Sequence

import aiohttp

from leyden_inference.errors import LoadFailed
from leyden_inference.follower import Follower
from leyden_inference.settings import InferenceSettings
from leyden_inference.vllm.client import VllmClient
from leyden_inference.vllm.engine import Attached, Engine
from leyden_inference.vllm.fleet import Fleet, folder_version
from leyden_inference.vllm.process import VllmProcess
from leyden_inference.vllm.proxy import Proxy
from leyden_inference.vllm.turns import Turns, own_place
from leyden_platform.http import HttpServer
from leyden_platform.service import Component

KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before a server that somebody else started drops them (after 5 s)."""


async def build_vllm(settings: InferenceSettings) -> Sequence[Component]:
    """Fleet, follower, HTTP server. Raises ``LoadFailed`` when a folder is not named ``policy@version``."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
    fixed = None if settings.follow else settings.models[0]
    try:
        message = folder_version(fixed.name, fixed.path) if fixed else None
    except ValueError as error:
        await session.close()
        raise LoadFailed("unsupported", str(error)) from None
    policy = message.policy if message else settings.policies[0]
    fleet = Fleet(settings, policy, engines(settings, session), session)
    fleet.turns = turns(settings, session)
    if message:
        fleet.hold(message)
    proxy = Proxy(
        fleet, session, max_body_bytes=settings.max_body_bytes, stall_s=settings.vllm.stall_timeout_s
    )
    http = HttpServer(
        "api", proxy.app(), settings.host, settings.port, drain_timeout_s=settings.drain_timeout_s
    )
    http.bind()
    following: list[Component] = [Follower(settings, fleet)] if settings.follow else []
    return [fleet, *following, http]


def engines(settings: InferenceSettings, session: aiohttp.ClientSession) -> list[Engine]:
    """The servers of the settings: those that run already, else as many as should be started."""
    vllm, name = settings.vllm, f"leyden-{secrets.token_hex(4)}"
    found: list[Engine] = []
    for number, url in enumerate(vllm.urls or [None] * vllm.engines):
        client = VllmClient(session)
        server = (
            VllmProcess(settings, client, number, name)
            if url is None
            else Attached(client, url, vllm.start_timeout_s)
        )
        found.append(Engine(number, client, server, vllm))
    return found


def turns(settings: InferenceSettings, session: aiohttp.ClientSession) -> Turns:
    """This process's turns among its peers."""
    vllm = settings.vllm
    return Turns(session, vllm.peers, own_place(vllm.peers, vllm.peer), wait_s=vllm.peer_wait_s)
