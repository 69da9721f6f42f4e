"""Whether a task's tests test anything, told from their text before any code of an agent's runs.

So it is the task's doing alone, and no answer can change it. The sandbox runs this text on its own Python:
nothing of ours can be imported here.
"""

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator

KNOWN = {"solution", "__main__", "__future__"}
"""What can be imported wherever tests run: the agent's code is the module ``solution``."""

Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_SKIP = re.compile(r"(?:unittest\.)?skip(?:\(|$)")
_OWN_SCOPE = (*Function, ast.ClassDef, ast.Lambda)


class Fault(ValueError):
    """Tests that cannot tell right code from wrong; the text says why."""


def kinds_of(pieces: list[str], entry_point: str | None) -> list[str]:
    """The kind of every piece. Raises ``Fault``, also when none of them does anything."""
    kinds = [kind_of(piece, entry_point) for piece in pieces]
    if set(kinds) == {"itself"} and all(map(_is_idle, pieces)):
        raise Fault("they call and assert nothing")
    return kinds


def kind_of(piece: str, entry_point: str | None) -> str:
    """``tests`` for a piece that has some, ``check`` where HumanEval's waits to be called, else ``itself``.

    Raises ``Fault``.
    """
    try:
        tree = ast.parse(piece)
        if entry_point is not None:
            ast.parse(entry_point, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Fault(f"they are no Python: {type(error).__name__}: {error}") from None
    if absent := next((name for name in _imported(tree) if not _importable(name)), None):
        raise Fault(
            f"they import {absent}, which is not installed; the agent's code is the module solution, and "
            "LEYDEN_REWARD_SANDBOX_PYTHON names a Python with what tests need"
        )
    if _have_tests(tree):
        return "tests"
    if _wait_for_check(tree):
        if entry_point is None:
            raise Fault("nothing calls check; say in params.entry_point what it is called with")
        return "check"
    defines = any(isinstance(node, (*Function, ast.ClassDef)) for node in tree.body)
    if defines and not any(map(_acts, _running(tree.body))):
        raise Fault("they have no test function, no TestCase with tests, and assert nothing")
    return "itself"


def _is_idle(piece: str) -> bool:
    """Whether a piece, such as one of imports, would do the same for any code."""
    doing = (ast.Call, ast.Assert, ast.Raise)
    return not any(isinstance(node, doing) for node in _running(ast.parse(piece).body))


def _have_tests(tree: ast.Module) -> bool:
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    tests = [(test, 0) for test in _tests(tree.body) if not (_required(test) and test.name in used)]
    classes = [node for node in _running(tree.body) if isinstance(node, ast.ClassDef)]
    bases = {ast.unparse(base) for holder in classes for base in holder.bases}
    for holder in classes:
        looked_at = holder.bases or holder.name.startswith("Test") or holder.name in bases
        if looked_at and not _is_skipped(holder):
            tests += [(test, 1) for test in _tests(holder.body)]
    for test, given in tests:
        _check(test, given)
    return any(not _is_skipped(test) for test, _ in tests)


def _is_skipped(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return any(_SKIP.match(ast.unparse(decorator)) for decorator in node.decorator_list)


def _wait_for_check(tree: ast.Module) -> bool:
    functions = [node for node in tree.body if isinstance(node, Function)]
    used = any(isinstance(node, ast.Name) and node.id == "check" for node in ast.walk(tree))
    return not used and any(function.name == "check" and _required(function) for function in functions)


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _importable(name: str) -> bool:
    return name in KNOWN or importlib.util.find_spec(name) is not None


def _tests(body: Iterable[ast.AST]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in _running(body) if isinstance(node, Function) and node.name.startswith("test"))


def _check(test: ast.FunctionDef | ast.AsyncFunctionDef, given: int) -> None:
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _running(test.body)):
        raise Fault(f"{test.name} yields, so that calling it tests nothing")
    if any("parametrize" in ast.unparse(decorator) for decorator in test.decorator_list):
        raise Fault(f"{test.name} is parametrized, which is not known here; use a loop")
    if _required(test) > given and not test.decorator_list:  # who knows what a decorator gives
        raise Fault(f"{test.name} takes arguments, and nothing gives them: there are no fixtures here")


def _required(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    named = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return named + sum(default is None for default in given.kw_defaults)


def _acts(node: ast.AST) -> bool:
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return call or isinstance(node, ast.Assert | ast.Raise)


def _running(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """What runs, or is defined, along with ``body``: not what functions, classes and ``__main__`` hold."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, _OWN_SCOPE):
            waiting.extend(ast.iter_child_nodes(node))
