"""What runs inside a reward worker process: the user's functions, imported once, and one call at a time.

User code may do anything here; the process is killed and replaced when it hangs or dies.
"""

import asyncio
import hashlib
import importlib
import inspect
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden_reward.rewards.verdict import Reason, Refused, Verdict, verdict
from leyden_schemas import Trajectory


@dataclass(frozen=True, slots=True)
class Loaded:
    """An importable reward function; ``by`` names it with a digest of its module's source."""

    function: Callable[[Trajectory], Any]
    by: str


_loaded: dict[str, Loaded] = {}
_broken: dict[str, str] = {}


def initialise(path: Sequence[str], targets: Mapping[str, str]) -> None:
    """Import every function of the catalogue; what cannot be imported is kept with the reason."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.path[:0] = [folder for folder in path if folder not in sys.path]
    for name, target in targets.items():
        try:
            _loaded[name] = load(target)
        except BaseException as error:  # noqa: BLE001 - user code; reported by broken()
            _broken[name] = f"{target}: {type(error).__name__}: {error}"


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def load(target: str) -> Loaded:
    """The function that ``module:function`` names. Raises what importing it raises, or ``TypeError``."""
    module_name, _, function_name = target.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name)
    if not callable(function):
        raise TypeError(f"{target} is not a function")
    return Loaded(function, f"{target}#{_digest(module.__file__)}")


def _digest(file: str | None) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else "unknown"


def broken() -> dict[str, str]:
    """Functions that could not be imported, with why."""
    return dict(_broken)


def grade(name: str, trajectory_json: bytes, max_reward: float) -> Verdict:
    """Call the function and judge what it returned; whatever it raises is a refusal."""
    if name not in _loaded:
        return Refused(Reason.RAISED, f"cannot be imported: {_broken.get(name, name)}")
    loaded = _loaded[name]
    trajectory = Trajectory.model_validate_json(trajectory_json)
    try:
        value = loaded.function(trajectory)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        return verdict(value, by=loaded.by, max_reward=max_reward)
    except SystemExit as error:
        return Refused(Reason.EXITED, f"{loaded.by} called sys.exit({error.code!r})")
    except BaseException as error:  # noqa: BLE001 - user code: whatever it raises is the verdict
        return Refused(Reason.RAISED, f"{loaded.by} raised {_explained(error)}")


def _explained(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:500]}{where}"
