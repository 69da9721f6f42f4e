"""What the programs share: cases by name, asked for and answered as one JSON line each.

A program runs in the environment of the client libraries, imports nothing of Leyden, and lives as long as the
test session, so that a library is imported once. Whatever a library prints goes to stderr.
"""

import asyncio
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar
from unittest.mock import patch

Case = Callable[..., Any]
CaseT = TypeVar("CaseT", bound=Case)
_CASES: dict[str, Case] = {}


def case(function: CaseT) -> CaseT:
    """Let tests ask for ``function``, plain or async, by its name."""
    _CASES[function.__name__] = function
    return function


def plain(value: Any) -> Any:
    """What JSON has no word for: pydantic models, and anything else by its text."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else repr(value)


def described(error: BaseException) -> dict[str, Any]:
    """An exception as its library typed it."""
    return {
        "types": [f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__],
        "message": str(error),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
    }


def serve() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            started = time.monotonic()
            try:
                outcome = {"value": _run(json.loads(line), runner)}
            except Exception as error:  # noqa: BLE001 - what a library raises is what tests look at
                outcome = {"raised": described(error)}
            outcome["seconds"] = time.monotonic() - started
            answers.write(json.dumps(outcome, default=plain) + "\n")
            answers.flush()


def _run(asked: dict[str, Any], runner: asyncio.Runner) -> Any:
    function = _CASES[asked["case"]]
    with patch.dict(os.environ, asked["environment"]):
        if inspect.iscoroutinefunction(function):
            return runner.run(function(**asked["arguments"]))
        return function(**asked["arguments"])
