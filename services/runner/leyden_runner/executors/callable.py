"""Agents that are Python functions: each attempt is a process forked from one that has imported them all."""

import json
from collections.abc import Mapping

from leyden_runner.executors.base import Bounds, Execution, died, supervise
from leyden_runner.executors.launcher import Child, Exit, Launcher
from leyden_runner.outcome import Ending, Failure, Raised, Unusable, returned
from leyden_schemas import Task, writable


class CallableExecutor:
    """Calls ``"module:function"`` with the task's input."""

    def __init__(self, launcher: Launcher, target: str, base: Mapping[str, str], bounds: Bounds) -> None:
        self._launcher, self._target, self._base, self._bounds = launcher, target, base, bounds

    async def execute(self, task: Task, environment: Mapping[str, str]) -> Execution:
        """Fork, call, and read what the function returned or raised from a pipe of its own."""
        request = {
            "callable": self._target,
            "input": task.input,
            "env": {**self._base, **environment},
            "max_output_bytes": self._bounds.max_output_bytes,
        }
        return await supervise(
            self._launcher,
            request,
            stdin=b"",
            timeout_s=task.limits.timeout_s,
            bounds=self._bounds,
            interpret=interpret,
        )


def interpret(child: Child, left: Exit) -> tuple[Ending, float | None]:
    """The answer in the pipe, or how the process died without one; and the function's own seconds."""
    if not child.result.seen:
        return died(left), None
    try:
        answer = json.loads(bytes(child.result))
    except (ValueError, RecursionError):
        return Unusable("the agent's process ended in the middle of its answer"), None
    if "returned" in answer:
        return returned(answer["returned"]), answer["seconds"]
    raised = answer["raised"]
    chain = [Failure(tuple(error["types"]), error["http_status"]) for error in raised["chain"]]
    return Raised(writable(raised["text"]), tuple(chain)), answer["seconds"]
