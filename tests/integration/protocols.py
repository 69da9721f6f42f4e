"""The protocols that callers speak, as the tests see them: what is asked, what is said, what an error is."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from gateway_harness import Gateway, running_gateway
from vllm_stub import VllmStub, serving

from leyden_gateway.routing.settings import RoutingSettings
from leyden_platform.settings import KafkaSettings
from leyden_platform.tokens import RolloutClaims
from leyden_schemas import Protocol

Json = dict[str, Any]
QUESTION = "3 * 4?"


@dataclass(frozen=True)
class Dialect:
    """One protocol."""

    protocol: Protocol
    path: str
    request: Json
    """Asks the question."""
    said: Callable[[Json], str]
    """The text of a whole answer."""
    piece: Callable[[Json], str]
    """The text that a streamed event adds."""
    acts: Callable[[Json], bool]
    """Whether an agent acts on a streamed event."""
    key_header: str = "authorization"

    def __str__(self) -> str:
        return self.protocol.value

    def headers(self, token: str) -> dict[str, str]:
        """How this protocol's clients present a key."""
        return {self.key_header: f"Bearer {token}" if self.key_header == "authorization" else token}

    def error(self, body: Json) -> tuple[str, str]:
        """Kind and message of an error object; fails when it is not one of this protocol."""
        if self.protocol is Protocol.MESSAGES:
            assert set(body) == {"type", "error"}, body
            assert body["type"] == "error"
            assert set(body["error"]) == {"type", "message"}
            return body["error"]["type"], body["error"]["message"]
        assert set(body) == {"error"}, body
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]["code"], body["error"]["message"]

    def broke(self, events: list[Json]) -> tuple[str, str]:
        """Kind and message of the error event that ends a stream; fails when none does."""
        if self.protocol is not Protocol.RESPONSES:
            return self.error(events[-1])
        told, failed = events[-2:]
        assert (told["type"], failed["type"]) == ("error", "response.failed")
        assert failed["response"]["status"] == "failed"
        assert failed["response"]["error"]["message"] == told["message"]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        return told["code"], told["message"]


def _finish_reason(event: Json) -> bool:
    return any(choice["finish_reason"] for choice in event.get("choices", []))


def _response_text(body: Json) -> str:
    return "".join(part["text"] for item in body["output"] for part in item.get("content", []))


def _delta_text(event: Json) -> str:
    return str(event["delta"].get("text", "")) if event["type"] == "content_block_delta" else ""


_USER = [{"role": "user", "content": QUESTION}]
_FINAL_RESPONSE_EVENTS = (
    "response.output_text.done",
    "response.function_call_arguments.done",
    "response.completed",
)
_FINAL_MESSAGE_EVENTS = ("content_block_stop", "message_delta", "message_stop")

CHAT = Dialect(
    Protocol.CHAT,
    "/chat/completions",
    {"model": "m", "messages": _USER},
    said=lambda body: str(body["choices"][0]["message"]["content"]),
    piece=lambda event: "".join(c["delta"].get("content") or "" for c in event.get("choices", [])),
    acts=_finish_reason,
)
COMPLETIONS = Dialect(
    Protocol.COMPLETIONS,
    "/completions",
    {"model": "m", "prompt": QUESTION},
    said=lambda body: str(body["choices"][0]["text"]),
    piece=lambda event: "".join(c["text"] for c in event.get("choices", [])),
    acts=_finish_reason,
)
RESPONSES = Dialect(
    Protocol.RESPONSES,
    "/responses",
    {"model": "m", "input": QUESTION},
    said=_response_text,
    piece=lambda event: str(event["delta"]) if event["type"] == "response.output_text.delta" else "",
    acts=lambda event: event["type"] in _FINAL_RESPONSE_EVENTS,
)
MESSAGES = Dialect(
    Protocol.MESSAGES,
    "/messages",
    {"model": "m", "max_tokens": 64, "messages": _USER},
    said=lambda body: "".join(block["text"] for block in body["content"]),
    piece=_delta_text,
    acts=lambda event: event["type"] in _FINAL_MESSAGE_EVENTS,
    key_header="x-api-key",
)
DIALECTS = [CHAT, COMPLETIONS, RESPONSES, MESSAGES]


class Stage:
    """A replica, a gateway before it, and a caller of every protocol whose connections are kept."""

    def __init__(self, stub: VllmStub, gateway: Gateway, http: httpx.AsyncClient) -> None:
        self.stub, self.gateway, self.http = stub, gateway, http

    def target(self, dialect: Dialect, claims: RolloutClaims | None) -> tuple[str, dict[str, str]]:
        """Where the calls of a rollout go, and with what headers; without claims, nobody's."""
        if claims is None:
            return f"{self.gateway.url}/v1{dialect.path}", {}
        token = self.gateway.token(claims)
        return f"{self.gateway.base_url(claims)}{dialect.path}", dialect.headers(token)

    async def ask(
        self,
        dialect: Dialect,
        claims: RolloutClaims | None,
        body: Json | None = None,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> httpx.Response:
        """One call; by default the protocol's question, with ``fields`` added."""
        url, own = self.target(dialect, claims)
        if content is None:
            content = json.dumps({**(dialect.request if body is None else body), **fields}).encode()
        return await self.http.post(url, content=content, headers={**own, **(headers or {})})

    @asynccontextmanager
    async def streaming(
        self, dialect: Dialect, claims: RolloutClaims, **fields: Any
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """A streamed call's events, as they arrive."""
        url, headers = self.target(dialect, claims)
        body = {**dialect.request, "stream": True, **fields}
        async with self.http.stream("POST", url, json=body, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield _events(answer)


async def _events(answer: httpx.Response) -> AsyncIterator[Json]:
    async for line in answer.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def events_of(answer: httpx.Response) -> list[Json]:
    """The events of a stream that was read to its end, each under the name that it says itself."""
    events: list[Json] = []
    for block in answer.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line)
        if "data" in lines and lines["data"] != "[DONE]":
            events.append(json.loads(lines["data"]))
            assert lines.get("event") in (None, events[-1].get("type"))
    return events


@asynccontextmanager
async def stage(kafka: KafkaSettings, **settings: Any) -> AsyncIterator[Stage]:
    """All of it, for a policy of its own whose first version is served. No failure closes the replica."""
    policy = f"calculator-{uuid4().hex[:8]}"
    patient = RoutingSettings(breaker_failures=10**6, breaker_min_calls=10**6)
    limits = httpx.Limits(max_keepalive_connections=4)
    async with (
        serving(VllmStub(models={f"{policy}@1"})) as stub,
        running_gateway(kafka, policy, stub.url, routing=patient, **settings) as gateway,
        httpx.AsyncClient(timeout=30, verify=False, limits=limits) as http,
    ):
        await gateway.publish_policy(versions=[1], serving=1)
        yield Stage(stub, gateway, http)
