"""An ordinary agent without tools: it asks a language model for the value of a sum.

Nothing here knows that it is being recorded or trained. Point `OPENAI_BASE_URL` at any server with
`/v1/completions` and run `python agent.py "4 - 7"`.
"""

import os
import sys
from typing import Any

import openai

MAX_TOKENS = 6
"""Enough for a minus sign, three digits and the end of the line."""

# Building an SSL context costs about 50 ms, so every call of `solve` shares one client.
HTTP = openai.DefaultHttpxClient(timeout=300.0)


def solve(task: dict[str, Any]) -> str:
    """What the model writes behind `Answer:`, up to the end of the line."""
    client = openai.OpenAI(http_client=HTTP, max_retries=0)
    completion = client.completions.create(
        model=os.environ.get("OPENAI_MODEL", "reasoning"),
        prompt=prompt(task["question"]),
        max_tokens=MAX_TOKENS,
        stop=["\n"],
    )
    return completion.choices[0].text.strip()


def prompt(question: str) -> str:
    """A text that a model goes on with by writing the answer and ending the line."""
    return f"Question: {expression(question)}\nAnswer:"


def expression(question: str) -> str:
    """`4 - 7` out of the sentence that reasoning-gym puts around it."""
    return question.rpartition(": ")[2].removesuffix(" =")


if __name__ == "__main__":
    print(solve({"question": " ".join(sys.argv[1:])}))
