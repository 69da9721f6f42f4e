"""The OpenAI Agents SDK, which speaks Responses and sends the whole conversation again each turn."""

import os
from typing import Any

import agents
import openai
from case_server import case, serve
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

Api = dict[str, Any]
Seen = dict[str, Any]


class Sum(BaseModel):
    """What structured answers are parsed into."""

    a: int
    b: int
    total: int


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


MULTIPLY = agents.function_tool(multiply)


def model(api: Api) -> Any:
    return agents.OpenAIResponsesModel(model="gpt-4o", openai_client=openai.AsyncOpenAI(timeout=30, **api))


def mathematician(api: Api, **options: Any) -> Any:
    return agents.Agent(
        name="mathematician", instructions="Use tools.", model=model(api), tools=[MULTIPLY], **options
    )


@case
async def run(api: Api, text: str) -> Seen:
    result = await agents.Runner.run(mathematician(api), text)
    return {
        "output": result.final_output,
        "items": [item.type for item in result.new_items],
        "tokens": result.context_wrapper.usage.output_tokens,
    }


@case
async def run_streamed(api: Api, text: str) -> Seen:
    result = agents.Runner.run_streamed(mathematician(api), text)
    raw = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
    return {
        "output": result.final_output,
        "pieces": [event.delta for event in raw if isinstance(event, ResponseTextDeltaEvent)],
        "items": [item.type for item in result.new_items],
    }


@case
async def run_by_environment(api: Api, text: str) -> str:
    """Without a client of one's own."""
    assert not api
    agent = agents.Agent(name="mathematician", model=os.environ["OPENAI_MODEL"])
    output: str = (await agents.Runner.run(agent, text)).final_output
    return output


@case
async def run_structured(api: Api, text: str) -> Seen:
    output: Sum = (await agents.Runner.run(mathematician(api, output_type=Sum), text)).final_output
    return output.model_dump()


@case
async def run_twice(api: Api, texts: list[str]) -> str:
    """A second run goes on from the first one's conversation."""
    first = await agents.Runner.run(mathematician(api), texts[0])
    told = [*first.to_input_list(), {"role": "user", "content": texts[1]}]
    output: str = (await agents.Runner.run(mathematician(api), told)).final_output
    return output


@case
async def run_chat(api: Api, text: str) -> str:
    """The same agent through chat completions."""
    chat = agents.OpenAIChatCompletionsModel(model="gpt-4o", openai_client=openai.AsyncOpenAI(**api))
    agent = agents.Agent(name="mathematician", model=chat, tools=[MULTIPLY])
    output: str = (await agents.Runner.run(agent, text)).final_output
    return output


@case
async def run_handoff(apis: list[Api], text: str) -> str:
    """Two agents of one rollout, each under its own role."""
    first, second = apis
    clerk = agents.Agent(name="clerk", instructions="You answer.", model=model(second))
    triage = agents.Agent(name="triage", instructions="You hand over.", model=model(first), handoffs=[clerk])
    result = await agents.Runner.run(triage, text)
    return f"{result.last_agent.name}: {result.final_output}"


if __name__ == "__main__":
    serve()
