"""AutoGen's assistant agent with a tool."""

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from case_server import case, serve

Api = dict[str, Any]
MODEL = {
    "vision": True,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


async def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


def assistant(api: Api, *, stream: bool = False) -> Any:
    client = OpenAIChatCompletionClient(model="gpt-4o", model_info=MODEL, **api)
    return AssistantAgent(
        "assistant",
        model_client=client,
        tools=[multiply],
        reflect_on_tool_use=True,
        model_client_stream=stream,
        system_message="Use tools.",
    )


@case
async def run(api: Api, task: str) -> list[dict[str, str]]:
    """The messages of a run, by type and text."""
    result = await assistant(api).run(task=task)
    return [{"type": message.type, "text": message.to_text()} for message in result.messages]


@case
async def run_stream(api: Api, task: str) -> list[str]:
    """The pieces of a run's text, as they arrive."""
    events = assistant(api, stream=True).run_stream(task=task)
    return [event.content async for event in events if isinstance(event, ModelClientStreamingChunkEvent)]


if __name__ == "__main__":
    serve()
