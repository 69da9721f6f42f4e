"""OpenAI's own client. Cases take the arguments of ``create`` and return what the client saw."""

from itertools import islice
from typing import Any

import openai
from case_server import case, serve
from pydantic import BaseModel

TIMEOUT_S = 30.0
Api = dict[str, Any]
Seen = dict[str, Any]


class Sum(BaseModel):
    """What structured answers are parsed into."""

    a: int
    b: int
    total: int


def client(api: Api) -> openai.OpenAI:
    return openai.OpenAI(timeout=TIMEOUT_S, **api)


def async_client(api: Api) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(timeout=TIMEOUT_S, **api)


def ours(headers: Any) -> dict[str, str]:
    """The headers that the gateway adds."""
    return {name: value for name, value in headers.items() if name.startswith("x-leyden-")}


def whole(raw: Any) -> Seen:
    return {"headers": ours(raw.headers), "answer": raw.parse().to_dict(mode="json")}


@case
def models(api: Api) -> list[str]:
    return [model.id for model in client(api).models.list()]


@case
def model(api: Api, name: str) -> Seen:
    found: Seen = client(api).models.retrieve(name).to_dict(mode="json")
    return found


@case
def request_id(api: Api, **create: Any) -> str:
    return str(client(api).chat.completions.create(**create)._request_id)


@case
def chat(api: Api, **create: Any) -> Seen:
    return whole(client(api).chat.completions.with_raw_response.create(**create))


@case
async def chat_async(api: Api, **create: Any) -> Seen:
    return whole(await async_client(api).chat.completions.with_raw_response.create(**create))


@case
def chat_stream(api: Api, **create: Any) -> Seen:
    raw = client(api).chat.completions.with_raw_response.create(stream=True, **create)
    return {"headers": ours(raw.headers), "chunks": [chunk.to_dict(mode="json") for chunk in raw.parse()]}


@case
async def chat_stream_async(api: Api, **create: Any) -> Seen:
    raw = await async_client(api).chat.completions.with_raw_response.create(stream=True, **create)
    return {
        "headers": ours(raw.headers),
        "chunks": [chunk.to_dict(mode="json") async for chunk in raw.parse()],
    }


@case
def chat_bytes(api: Api, **create: Any) -> str:
    with client(api).chat.completions.with_streaming_response.create(**create) as response:
        return b"".join(response.iter_bytes()).decode()


@case
def chat_stream_helper(api: Api, *, structured: bool = False, **create: Any) -> Seen:
    if structured:
        create["response_format"] = Sum
    with client(api).chat.completions.stream(**create) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    parsed = final.choices[0].message.parsed
    return {
        "events": kinds,
        "answer": final.to_dict(mode="json"),
        "parsed": parsed.model_dump() if isinstance(parsed, Sum) else None,
    }


@case
async def chat_stream_helper_async(api: Api, **create: Any) -> Seen:
    async with async_client(api).chat.completions.stream(**create) as stream:
        final = await stream.get_final_completion()
    return {"answer": final.to_dict(mode="json")}


@case
def chat_parse(api: Api, **create: Any) -> Seen:
    parsed = client(api).chat.completions.parse(response_format=Sum, **create).choices[0].message.parsed
    assert isinstance(parsed, Sum)
    return parsed.model_dump()


@case
def chat_abandoned(api: Api, *, after: int, **create: Any) -> int:
    """Read ``after`` chunks of a stream, then hang up."""
    with client(api).chat.completions.create(stream=True, **create) as stream:
        return len(list(islice(stream, after)))


@case
def complete(api: Api, **create: Any) -> Seen:
    return whole(client(api).completions.with_raw_response.create(**create))


@case
def complete_stream(api: Api, **create: Any) -> Seen:
    raw = client(api).completions.with_raw_response.create(stream=True, **create)
    return {"headers": ours(raw.headers), "chunks": [chunk.to_dict(mode="json") for chunk in raw.parse()]}


@case
def embed(api: Api, **create: Any) -> Seen:
    return whole(client(api).embeddings.with_raw_response.create(**create))


@case
def moderate(api: Api, **create: Any) -> Seen:
    return client(api).moderations.create(**create).to_dict(mode="json")


@case
def respond(api: Api, **create: Any) -> Seen:
    raw = client(api).responses.with_raw_response.create(**create)
    answer = raw.parse()
    return {
        "headers": ours(raw.headers),
        "answer": answer.to_dict(mode="json"),
        "output_text": answer.output_text,
    }


@case
async def respond_async(api: Api, **create: Any) -> Seen:
    return whole(await async_client(api).responses.with_raw_response.create(**create))


@case
def respond_stream(api: Api, **create: Any) -> Seen:
    raw = client(api).responses.with_raw_response.create(stream=True, **create)
    return {"headers": ours(raw.headers), "events": [event.to_dict(mode="json") for event in raw.parse()]}


@case
def respond_stream_helper(api: Api, *, structured: bool = False, **create: Any) -> Seen:
    if structured:
        create["text_format"] = Sum
    with client(api).responses.stream(**create) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    parsed = final.output_parsed
    return {
        "events": kinds,
        "answer": final.to_dict(mode="json"),
        "output_text": final.output_text,
        "parsed": parsed.model_dump() if isinstance(parsed, Sum) else None,
    }


@case
def respond_parse(api: Api, **create: Any) -> Seen:
    parsed = client(api).responses.parse(text_format=Sum, **create).output_parsed
    assert isinstance(parsed, Sum)
    return parsed.model_dump()


if __name__ == "__main__":
    serve()
