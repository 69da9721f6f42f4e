"""LangChain's chat model, and a LangGraph agent with a tool."""

from typing import Any

from case_server import case, serve
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

Api = dict[str, Any]
Seen = dict[str, Any]


class Sum(BaseModel):
    """A sum and its terms."""

    a: int
    b: int
    total: int


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


MULTIPLY = tool(multiply)


def model(api: Api, **options: Any) -> Any:
    return ChatOpenAI(model="gpt-4o", timeout=30, **api, **options)


def spoken(message: Any) -> Seen:
    return {
        "content": message.content,
        "tool_calls": [{"name": call["name"], "args": call["args"]} for call in message.tool_calls],
        "usage": message.usage_metadata,
        "finish_reason": message.response_metadata.get("finish_reason"),
    }


@case
def invoke(api: Api, text: str, **options: Any) -> Seen:
    return spoken(model(api, **options).invoke(text))


@case
async def invoke_async(api: Api, text: str) -> Seen:
    return spoken(await model(api).ainvoke(text))


@case
def stream(api: Api, text: str, **options: Any) -> Seen:
    pieces = list(model(api, **options).stream(text))
    joined = pieces[0]
    for piece in pieces[1:]:
        joined += piece
    return {**spoken(joined), "pieces": [piece.content for piece in pieces]}


@case
async def stream_async(api: Api, text: str) -> list[str]:
    return [piece.content async for piece in model(api).astream(text)]


@case
def batch(api: Api, texts: list[str]) -> list[Seen]:
    return [spoken(message) for message in model(api).batch(texts)]


@case
def bind_tools(api: Api, text: str, **options: Any) -> Seen:
    return spoken(model(api).bind_tools([MULTIPLY], **options).invoke(text))


@case
def structured(api: Api, text: str, method: str) -> Seen:
    parsed: Sum = model(api).with_structured_output(Sum, method=method).invoke(text)
    return parsed.model_dump()


@case
def graph(api: Api, text: str) -> list[Seen]:
    """What the agent said and heard, in order."""
    return [heard(message) for message in agent(api).invoke({"messages": [("user", text)]})["messages"]]


@case
async def graph_stream(api: Api, text: str) -> list[str]:
    """The pieces of what its model said, as they arrive."""
    told = {"messages": [("user", text)]}
    return [
        message.content
        async for message, about in agent(api).astream(told, stream_mode="messages")
        if about["langgraph_node"] == "model"
    ]


def agent(api: Api) -> Any:
    bound = model(api).bind_tools([MULTIPLY])

    def answer(state: Any) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", answer)
    builder.add_node("tools", ToolNode([MULTIPLY]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


def heard(message: Any) -> Seen:
    return {"type": message.type, "content": message.content}


@case
def invoke_responses(api: Api, text: str) -> Seen:
    """The same chat model through Responses, with a tool."""
    said = model(api, use_responses_api=True).bind_tools([MULTIPLY]).invoke(text)
    return {"text": said.text, "tool_calls": [call["args"] for call in said.tool_calls]}


@case
def stream_responses(api: Api, text: str) -> list[str]:
    return [piece.text for piece in model(api, use_responses_api=True).stream(text)]


@case
def embed(api: Api, texts: list[str]) -> list[list[float]]:
    embeddings = OpenAIEmbeddings(model="any", check_embedding_ctx_length=False, **api)
    vectors: list[list[float]] = embeddings.embed_documents(texts)
    return vectors


if __name__ == "__main__":
    serve()
