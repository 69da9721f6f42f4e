"""LiteLLM as a library, with the gateway as an OpenAI-compatible server."""

from typing import Any

import litellm
from case_server import case, serve

Api = dict[str, Any]
Seen = dict[str, Any]
litellm.telemetry = False


@case
def complete(api: Api, **arguments: Any) -> Seen:
    answer = litellm.completion(model="openai/gpt-4o", timeout=30, **api, **arguments)
    seen: Seen = answer.model_dump(mode="json")
    return seen


@case
async def complete_async(api: Api, **arguments: Any) -> Seen:
    answer = await litellm.acompletion(model="openai/gpt-4o", timeout=30, **api, **arguments)
    seen: Seen = answer.model_dump(mode="json")
    return seen


@case
def stream(api: Api, **arguments: Any) -> list[Seen]:
    answer = litellm.completion(model="openai/gpt-4o", stream=True, timeout=30, **api, **arguments)
    return [chunk.model_dump(mode="json") for chunk in answer]


@case
async def stream_async(api: Api, **arguments: Any) -> list[Seen]:
    answer = await litellm.acompletion(model="openai/gpt-4o", stream=True, timeout=30, **api, **arguments)
    return [chunk.model_dump(mode="json") async for chunk in answer]


@case
def messages(api: Api, **arguments: Any) -> Seen:
    """The same through Anthropic's protocol."""
    answer = litellm.completion(model="anthropic/claude-sonnet-4-5", timeout=30, **api, **arguments)
    seen: Seen = answer.model_dump(mode="json")
    return seen


if __name__ == "__main__":
    serve()
