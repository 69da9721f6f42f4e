"""Runs an agent's code, then a piece of tests in the same module, and says what each test came to.

The sandbox runs this text in a process of its own, in a module that nothing can import by a name. Nothing of
ours can be imported here.
"""

import sys
import types
import unittest
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isasyncgen, iscoroutine, isgenerator, signature
from traceback import extract_tb
from typing import Any

MOST_TEXT = 2_000
SOLUTION, FUNCTIONS = "solution", "functions"

Case = list[Any]
"""A test's name, and what went wrong with it, if anything."""
Space = dict[str, Any]


def test(code: str, piece: str, kind: str, entry_point: str | None) -> list[Case]:
    """Run the code, then the piece, then its tests; by its ``kind`` call ``check``, or it is itself a test.

    There are no cases where the piece has tests and none of them was found or left to run.
    """
    space = module_of_its_own()
    if problem := apart(lambda: exec(compile(code, "solution.py", "exec"), space)):
        return [["solution.py", problem]]
    before = dict(space)
    unittest.main = lambda *_, **__: None  # type: ignore[assignment] # what it would run is run below
    if problem := attempt(lambda: exec(compile(piece, "tests.py", "exec"), space)):
        return [["tests.py", problem]]
    if kind == "check":
        candidate = compile(str(entry_point), "params.entry_point", "eval")
        return [["check", attempt(lambda: space["check"](eval(candidate, space)))]]
    new = {name: value for name, value in space.items() if value is not before.get(name, before)}
    tests = list(tests_in(new))
    return run(tests) if tests or kind == "tests" else [["tests.py", None]]


def module_of_its_own() -> Space:
    """Where code and tests run, as ``solution``; the sandbox's ``__main__`` gives way to it."""
    module = types.ModuleType(SOLUTION)
    sys.modules[SOLUTION] = sys.modules["__main__"] = module
    return vars(module)


def apart(call: Callable[[], object]) -> str | None:
    """``attempt`` with a ``unittest`` of the call's own: what it changes in that does not reach the tests."""
    ours = forgotten("unittest")
    try:
        return attempt(call)
    finally:
        forgotten("unittest")
        sys.modules.update(ours)


def forgotten(package: str) -> dict[str, types.ModuleType]:
    """The modules of a package, which the next import of it makes anew."""
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    return {name: sys.modules.pop(name) for name in names}


def attempt(call: Callable[[], object]) -> str | None:
    """What went wrong in a call, None if nothing did."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - agents' code: whatever it raises is the result
        return explained(error)
    return None


def explained(error: BaseException) -> str:
    """The error, and where in the code and the tests it was raised."""
    frames = extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if not frame.filename.startswith("/")]
    where = f" ({', '.join(lines[-3:])})" if lines else ""
    return f"{type(error).__name__}: {str(error)[:500]}{where}"


def tests_in(new: Space) -> Iterator[unittest.TestCase]:
    """The tests among the names that a piece defined, with those it imported left out."""
    own = {name: value for name, value in new.items() if getattr(value, "__module__", SOLUTION) == SOLUTION}
    for value in own.values():
        if isinstance(value, type):
            yield from tests_of(value)
    functions = {
        name: staticmethod(value) for name, value in own.items() if name.startswith("test") and is_test(value)
    }
    yield from map(type(FUNCTIONS, (unittest.TestCase,), {**functions, "__module__": SOLUTION}), functions)


def is_test(value: object) -> bool:
    """Whether it is a function that needs no arguments; one that does is the tests' own helper."""
    if not callable(value) or isinstance(value, type):
        return False
    given = signature(value, follow_wrapped=False).parameters.values()
    return all(
        one.default is not one.empty or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in given
    )


def tests_of(holder: type) -> Iterator[unittest.TestCase]:
    """The tests of a TestCase, or of a pytest class, which becomes one; of another class none."""
    if not issubclass(holder, unittest.TestCase):
        if not holder.__name__.startswith("Test") or "__init__" in vars(holder):
            return
        own = {**hooks_of(holder), "__module__": SOLUTION}
        holder = type(holder.__name__, (holder, unittest.TestCase), own)
    yield from map(holder, unittest.defaultTestLoader.getTestCaseNames(holder))


def hooks_of(holder: Any) -> Space:
    """The set-up and tear-down of a pytest class under the names that unittest gives them."""
    hooks: Space = {}
    for stage, theirs in (("setUp", "setup"), ("tearDown", "teardown")):
        if hook := getattr(holder, f"{theirs}_class", None):
            hooks[f"{stage}Class"] = classmethod(lambda _cls, hook=hook: hook())
        if hook := getattr(holder, f"{theirs}_method", None):
            method = [None] * (len(signature(hook).parameters) - 1)
            hooks[stage] = lambda self, hook=hook, method=method: hook(self, *method)
    return hooks


def run(tests: list[unittest.TestCase]) -> list[Case]:
    """Run tests with the set-up of their classes and module; those that the task skips are no cases."""
    for one in tests:
        finish(one)
    result, suite = Result(), unittest.TestSuite(tests)
    if ended := attempt(lambda: suite.run(result)):
        result.beside.append(ended)
    return [case for one in tests if (case := result.case(one))]


def finish(one: unittest.TestCase) -> None:
    """Make a test await what it returns, where unittest would pass a coroutine that never ran."""
    method = getattr(one, one._testMethodName)
    if hasattr(one, "asyncSetUp"):  # it awaits by itself
        return

    @wraps(method)
    def finished() -> None:
        value = method()
        if iscoroutine(value):
            import asyncio  # slow, and seldom needed

            asyncio.run(value)
        elif isgenerator(value) or isasyncgen(value):
            raise TypeError("it yields, so that calling it tests nothing")

    setattr(one, one._testMethodName, finished)


class Result(unittest.TestResult):
    """Which tests passed, and what went wrong in the others; one that was skipped in the run failed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: set[int] = set()
        self.wrong: dict[int, list[str]] = {}
        self.beside: list[str] = []

    def case(self, one: unittest.TestCase) -> Case | None:
        """The test's name and problem; None if the task skips it."""
        if is_skipped(one):
            return None
        name = one._testMethodName if type(one).__name__ == FUNCTIONS else str(one)
        if id(one) in self.passed:
            return [name, None]
        wrong = self.wrong.get(id(one)) or ["it was not run to its end", *self.beside]
        return [name, "\n".join(wrong)[:MOST_TEXT]]

    def note(self, test: object, problem: str) -> None:
        """Something went wrong in a test, or beside all: the set-up of a class is no test."""
        place = self.wrong.setdefault(id(test), []) if isinstance(test, unittest.TestCase) else self.beside
        place.append(problem)

    def addSuccess(self, test: Any) -> None:  # noqa: N802 - unittest's names
        """It passed."""
        self.passed.add(id(test))

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        """It failed, as the task wants it to."""
        self.passed.add(id(test))

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        """It raised."""
        self.note(test, explained(err[1]))

    addFailure = addError  # noqa: N815

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        """A part of it ended."""
        if err is not None:
            self.note(test, f"{subtest._subDescription()} {explained(err[1])}")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        """It, or its set-up, raised ``SkipTest``, which the code may have done."""
        self.note(test, f"it was skipped in the run: {reason}")

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        """It was expected to fail."""
        self.note(test, "it was expected to fail")


def is_skipped(one: unittest.TestCase) -> bool:
    """Whether the task says so with ``@unittest.skip``."""
    marked = (type(one), getattr(one, one._testMethodName))
    return any(getattr(where, "__unittest_skip__", False) for where in marked)
