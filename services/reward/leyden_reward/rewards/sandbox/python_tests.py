"""``python_tests``: does the output, Python code, pass the task's tests?"""

from collections.abc import Sequence
from typing import Any

from leyden_reward.rewards.library.texts import code_in, reference_of, written
from leyden_reward.rewards.sandbox.sandbox import Job, Sandbox, SandboxFailed, TestsFault
from leyden_reward.rewards.verdict import MAX_FEEDBACK, Graded, Reason, Refused, Verdict
from leyden_schemas import RewardTerm, Trajectory
from leyden_schemas.rewards import PythonTests, params_of

_MOST_CODE = 200_000


class PythonTestsReward:
    """Grades by running the tests in ``sandbox``."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def grade(self, trajectory: Trajectory) -> Verdict:
        """1 when all tests pass, else 0, or the share that passes; feedback says what failed first."""
        params = params_of(trajectory.task.reward, PythonTests)
        try:
            pieces = _pieces(params, trajectory)
        except ValueError as error:
            return Refused(Reason.PARAMS, str(error))
        code = code_in(written(trajectory.output), "python", "py", "python3")
        if len(code) > _MOST_CODE:
            return _graded(0.0, f"the code is longer than {_MOST_CODE} characters")
        job = Job(
            code, pieces, params.cpu_s, params.memory_mb, not params.partial, entry_point=params.entry_point
        )
        try:
            results = await self._sandbox.run(job)
        except TestsFault as error:
            return Refused(Reason.PARAMS, f"python_tests: the tests: {error}")
        except (SandboxFailed, OSError) as error:
            return Refused(Reason.SANDBOX_UNAVAILABLE, str(error))
        share, feedback = summary(results, len(pieces))
        return _graded(share if params.partial else float(share == 1.0), feedback)


def summary(results: Sequence[dict[str, Any]], pieces: int) -> tuple[float, str | None]:
    """The share of cases that passed, and the problems. A piece that did not get to its end is one case."""
    problems, total = [], pieces - len(results)
    for result in results:
        cases = result.get("cases") or [["tests.py", result.get("problem", "none of the tests was run")]]
        total += len(cases)
        problems += [f"{name}: {problem}" for name, problem in cases if problem is not None]
    passed = total - len(problems) - (pieces - len(results))
    return passed / total, "\n".join(problems)[:MAX_FEEDBACK] or None


def _graded(value: float, feedback: str | None) -> Graded:
    return Graded((RewardTerm(name="reward", value=value, feedback=feedback),), "python_tests")


def _pieces(params: PythonTests, trajectory: Trajectory) -> tuple[str, ...]:
    tests = reference_of(trajectory) if params.tests is None else params.tests
    pieces = [tests] if isinstance(tests, str) else tests
    if not isinstance(pieces, list) or not pieces or not all(isinstance(piece, str) for piece in pieces):
        raise ValueError("python_tests: tests are Python text, or a list of such; give params.tests")
    return tuple(pieces)
