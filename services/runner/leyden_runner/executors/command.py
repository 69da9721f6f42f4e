"""Agents that are programs in any language: task on standard input, output on the last line they print."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from leyden_runner.environment import task_json
from leyden_runner.executors.base import Bounds, Execution, died, supervise
from leyden_runner.executors.launcher import Child, Exit, Launcher
from leyden_runner.outcome import Ending, NotExecuted, Returned, Unusable, returned
from leyden_schemas import Task

_CANNOT_EXECUTE = 127


class CommandExecutor:
    """Executes an argument vector. Standard error is the log."""

    def __init__(
        self,
        launcher: Launcher,
        command: Sequence[str],
        cwd: str | None,
        base: Mapping[str, str],
        bounds: Bounds,
    ) -> None:
        self._launcher, self._bounds = launcher, bounds
        self._command, self._cwd, self._base = list(command), cwd, base

    async def execute(self, task: Task, environment: Mapping[str, str]) -> Execution:
        """Fork, execute, and take the output from what was printed."""
        return await supervise(
            self._launcher,
            {"command": self._command, "cwd": self._cwd, "env": {**self._base, **environment}},
            stdin=task_json(task).encode() + b"\n",
            timeout_s=task.limits.timeout_s,
            bounds=self._bounds,
            interpret=interpret,
        )


def interpret(child: Child, left: Exit) -> tuple[Ending, float | None]:
    """Exit status 0 makes what was printed the output; any other is the agent's failure."""
    if left.status == _CANNOT_EXECUTE:
        return NotExecuted(f"the command cannot be executed: {child.log.text().strip()}"), None
    if left.status != 0:
        return died(left), None
    return printed(child.result.text(), truncated=child.result.truncated), None


def printed(text: str, *, truncated: bool = False) -> Ending:
    """The last line as JSON when it is JSON, else everything that was printed as text."""
    whole = text.strip()
    last = whole.rpartition("\n")[2]
    try:
        output: Any = json.loads(last, parse_constant=_refuse)
    except (ValueError, RecursionError):
        if truncated:
            return Unusable(
                "the agent printed more than an output may be long, and its last line is not JSON"
            )
        return Returned(whole)
    return returned(output)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
