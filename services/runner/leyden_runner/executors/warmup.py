"""Pays the first-call costs of client libraries before agents are forked.

The openai client builds its types and transforms lazily: its first request costs about 70 ms of CPU, every
later one 5 ms. A forked agent makes its first request in a new process, so without this each rollout would
pay again. One canned request, answered in memory, warms what the agents' modules have imported; nothing
reaches the network.
"""

import importlib
import sys
from typing import Any

_TOOL = {"type": "function", "function": {"name": "t", "description": "d", "parameters": {"type": "object"}}}
_CALL = {"id": "c", "type": "function", "function": {"name": "t", "arguments": "{}"}}
_MESSAGES = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "1"},
]
_ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def warm_up() -> None:
    """Warm the client libraries that are imported. Never fails: a cold library is only slower."""
    if "openai" not in sys.modules:
        return
    try:
        _warm_openai(sys.modules["openai"])
    except Exception as error:  # noqa: BLE001 - any version of a library we do not choose
        sys.stderr.write(f"leyden: openai stays cold: {type(error).__name__}: {error}\n")


def _warm_openai(openai: Any) -> None:
    bases = [base.__module__.partition(".")[0] for base in openai.DefaultHttpxClient.__mro__]
    httpx = importlib.import_module(next(name for name in bases if name.startswith("httpx")))
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json=_ANSWER))
    with httpx.Client(transport=transport) as http:
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http)
        completion = client.chat.completions.create(model="m", messages=_MESSAGES, tools=[_TOOL])
        completion.choices[0].message.model_dump(exclude_none=True)
