"""Anthropic's own client. Cases take the arguments of ``create`` and return what the client saw."""

from typing import Any

import anthropic
from case_server import case, serve
from pydantic import BaseModel

Api = dict[str, Any]
Seen = dict[str, Any]


class Sum(BaseModel):
    """What structured answers are parsed into."""

    a: int
    b: int
    total: int


def client(api: Api) -> Any:
    return anthropic.Anthropic(timeout=30, **api)


def async_client(api: Api) -> Any:
    return anthropic.AsyncAnthropic(timeout=30, **api)


def ours(headers: Any) -> dict[str, str]:
    """The headers that the gateway adds."""
    return {name: value for name, value in headers.items() if name.startswith("x-leyden-")}


@case
def request_id(api: Api, **create: Any) -> str:
    return str(client(api).messages.create(**create)._request_id)


@case
def message(api: Api, **create: Any) -> Seen:
    raw = client(api).messages.with_raw_response.create(**create)
    return {"headers": ours(raw.headers), "answer": raw.parse().to_dict(mode="json")}


@case
async def message_async(api: Api, **create: Any) -> Seen:
    raw = await async_client(api).messages.with_raw_response.create(**create)
    return {"headers": ours(raw.headers), "answer": (await raw.parse()).to_dict(mode="json")}


@case
def message_stream(api: Api, **create: Any) -> Seen:
    """The events as they come."""
    raw = client(api).messages.with_raw_response.create(stream=True, **create)
    return {"headers": ours(raw.headers), "events": [event.to_dict(mode="json") for event in raw.parse()]}


@case
def stream_helper(api: Api, **create: Any) -> Seen:
    with client(api).messages.stream(**create) as stream:
        kinds = [event.type for event in stream]
        return {"kinds": kinds, "answer": stream.get_final_message().to_dict(mode="json")}


@case
async def stream_helper_async(api: Api, **create: Any) -> Seen:
    async with async_client(api).messages.stream(**create) as stream:
        pieces = [piece async for piece in stream.text_stream]
        return {"pieces": pieces, "answer": (await stream.get_final_message()).to_dict(mode="json")}


@case
def parse(api: Api, **create: Any) -> Seen:
    parsed: Sum = client(api).messages.parse(output_format=Sum, **create).parsed_output
    return parsed.model_dump()


def multiply(a: int, b: int) -> str:
    """Multiply two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return str(a * b)


@case
def run_tools(api: Api, **create: Any) -> list[Seen]:
    """The messages of Anthropic's own agent loop."""
    runner = client(api).beta.messages.tool_runner(tools=[anthropic.beta_tool(multiply)], **create)
    return [said.to_dict(mode="json") for said in runner]


@case
def models(api: Api) -> list[str]:
    return [model.id for model in client(api).models.list()]


@case
def model(api: Api, name: str) -> Seen:
    found: Seen = client(api).models.retrieve(name).to_dict(mode="json")
    return found


@case
def count_tokens(api: Api, **create: Any) -> Seen:
    counted: Seen = client(api).messages.count_tokens(**create).to_dict(mode="json")
    return counted


if __name__ == "__main__":
    serve()
