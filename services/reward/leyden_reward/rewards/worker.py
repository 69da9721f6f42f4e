"""What runs inside a reward worker process: the user's functions, imported once, and one call at a time.

User code may do anything here; the process is killed and replaced when it hangs or dies. It has a bound on
its memory, dies before the service where memory runs out, and what it prints is caught.
"""

import asyncio
import contextlib
import hashlib
import importlib
import inspect
import multiprocessing
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from leyden_reward.air import own_worker
from leyden_reward.air.own_worker import OwnRule, own_rule
from leyden_reward.rewards.library.texts import TaskFault
from leyden_reward.rewards.printed import Printed
from leyden_reward.rewards.verdict import Reason, Refused, Verdict, verdict
from leyden_schemas import Topics, Trajectory, decode


@dataclass(frozen=True, slots=True)
class Loaded:
    """An importable reward function; ``by`` names it with a digest of its module's source."""

    function: Callable[[Trajectory], Any]
    by: str
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What importing gave: functions that could not be imported, with why; deadlines of their own; rules."""

    broken: Mapping[str, str]
    deadlines_s: Mapping[str, float]
    rules: Mapping[str, OwnRule]


T = TypeVar("T")
R = TypeVar("R")
RULE = "rule "
"""In front of the names of the user's intermediate rules, which may be called like a reward."""


_loaded: dict[str, Loaded] = {}
_broken: dict[str, str] = {}
_printed: list[Printed] = []


def initialise(path: Sequence[str], targets: Mapping[str, str], memory_mb: int | None = None) -> None:
    """Import every function of the catalogue; what cannot be imported is kept with the reason."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _tell_exits()
    _bound_memory(memory_mb)
    _printed.append(Printed())
    sys.path[:0] = [folder for folder in path if folder not in sys.path]
    for name, target in targets.items():
        try:
            _loaded[name] = load(target, name)
        except BaseException as error:  # noqa: BLE001 - user code; reported by report()
            _broken[name] = f"{target}: {type(error).__name__}: {error}"


def _bound_memory(memory_mb: int | None) -> None:
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
    if memory_mb is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = memory_mb * 1024 * 1024
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _tell_exits() -> None:
    """Leave with no status of 0: the pool takes that for an end in order and would wait for the answer."""
    leave, process = os._exit, os.getpid()

    def leave_visibly(status: int) -> NoReturn:
        leave(1 if status == 0 and os.getpid() == process else status)

    os._exit = leave_visibly


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def load(target: str, name: str = "") -> Loaded:
    """The function that ``module:function`` names; ``module`` alone is searched for the decorated ``name``.

    Raises what importing it raises, ``AttributeError`` or ``TypeError``.
    """
    module_name, _, function_name = target.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name) if function_name else _decorated(module, name)
    if not callable(function):
        raise TypeError(f"{target} is not a function")
    if name.startswith(RULE):
        own_rule(name, function)
    marks = (getattr(function, attribute, None) for attribute in ("__leyden_reward__", own_worker.MARK))
    deadline_s = next((mark.deadline_s for mark in marks if mark is not None), None)
    return Loaded(function, f"{target}#{_digest(module.__file__)}", deadline_s)


def _decorated(module: ModuleType, name: str) -> Any:
    """``@leyden.reward`` leaves its options on the function; this service does not import the SDK."""
    marks = ((value, getattr(value, "__leyden_reward__", None)) for value in vars(module).values())
    found = {mark.name: value for value, mark in marks if mark is not None}
    if name not in found:
        raise AttributeError(
            f"no function is decorated with @leyden.reward under the name {name!r}; "
            f"there are {', '.join(sorted(found)) or 'none'}"
        )
    return found[name]


def _digest(file: str | None) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else "unknown"


def report() -> Report:
    """How importing went."""
    deadlines = {name: loaded.deadline_s for name, loaded in _loaded.items() if loaded.deadline_s is not None}
    names = (name for name in _loaded if name.startswith(RULE))
    rules = [own_rule(name.removeprefix(RULE), _loaded[name].function) for name in names]
    return Report(dict(_broken), deadlines, {rule.name: rule for rule in rules})


class Answered(NamedTuple, Generic[R]):
    """What a call amounts to, the end of what it printed, and whether this process ran out of memory: what a
    function keeps from call to call would be missing in every later one.
    """

    judged: R
    printed: str
    spent: bool


def grade(name: str, trajectory_json: bytes, max_reward: float) -> Answered[Verdict]:
    """Call the function; whatever it raises is a refusal."""

    def judge(loaded: Loaded) -> Verdict:
        value = loaded.function(_trajectory(trajectory_json))
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        return verdict(value, by=loaded.by, max_reward=max_reward)

    return _answer(name, judge)


def measure(name: str, trajectory_json: bytes) -> Answered[list[float] | Refused]:
    """The same for an intermediate rule: what it sees in each step."""

    def judge(loaded: Loaded) -> list[float] | Refused:
        trajectory = _trajectory(trajectory_json)
        return own_worker.judged(own_worker.call(loaded.function, trajectory), trajectory, by=loaded.by)

    return _answer(name, judge)


def _trajectory(trajectory_json: bytes) -> Trajectory:
    trajectory: Trajectory = decode(Topics.TRAJECTORIES, trajectory_json)
    return trajectory


def _answer(name: str, judge: Callable[[Loaded], T]) -> Answered[T | Refused]:
    if name not in _loaded:
        refused = Refused(Reason.RAISED, f"cannot be imported: {_broken.get(name, name)}")
        return Answered(refused, _printed[-1].take(), spent=False)
    loaded, spent = _loaded[name], False
    judged: T | Refused
    try:
        judged = judge(loaded)
    except TaskFault as error:
        judged = Refused(Reason.PARAMS, str(error))
    except SystemExit as error:
        judged = Refused(Reason.EXITED, f"{loaded.by} called sys.exit({error.code!r})")
    except BaseException as error:  # noqa: BLE001 - user code: whatever it raises is the verdict
        spent = isinstance(error, MemoryError)
        judged = Refused(Reason.RAISED, f"{loaded.by} raised {_explained(error)}")
    return Answered(judged, _printed[-1].take(), spent)


def _explained(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    try:
        text = str(error)[:500]
    except Exception as worse:  # noqa: BLE001 - user code
        text = f"(what it says cannot be shown: {type(worse).__name__})"
    return f"{type(error).__name__}: {text}{where}"
