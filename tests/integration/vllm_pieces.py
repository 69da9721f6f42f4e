"""What every answer of the stand-in for vLLM is made of."""

import json
from typing import Any

PROMPT_IDS = [1, 2, 3, 4]
FIRST_ID = 100
Json = dict[str, Any]


def sse(payload: Json) -> bytes:
    """One event, with the separators Python's json and pydantic differ in left as vLLM writes them."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"
