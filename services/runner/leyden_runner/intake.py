"""Which tasks are accepted, decided from values alone; every refusal names what would have been known."""

from collections.abc import Collection
from dataclasses import dataclass

from leyden_platform.messaging import Rejected
from leyden_schemas import Task, cause_id
from leyden_schemas.rewards import LIBRARY, UnknownReward, leaves


@dataclass(frozen=True, slots=True)
class Known:
    """The names that a task may use here; ``rewards`` are the user's, beside those of the library."""

    agents: Collection[str]
    rewards: Collection[str]


def identified(task: Task, where: str, timestamp_ms: int) -> Task:
    """The task with an id: its own, or one derived from ``where`` its message lies and since when.

    A record read again has the same timestamp; one at the same place in a topic made anew has not.
    """
    if task.task_id is not None:
        return task
    return task.model_copy(update={"task_id": str(cause_id("task", where, timestamp_ms))})


def check(task: Task, known: Known) -> None:
    """Raise ``Rejected`` for an agent or a reward that does not exist here, and for a reward told wrongly."""
    if task.agent not in known.agents:
        raise Rejected(
            "unknown_agent", f"agent {task.agent!r} is not known; {_listed('agents', known.agents)}"
        )
    try:
        for _leaf in leaves(task.reward, known.rewards):
            pass
    except UnknownReward as error:
        names = {*LIBRARY, *known.rewards}
        raise Rejected(
            "unknown_reward", f"{error}; {_listed('rewards', names)} (LEYDEN_CATALOGUE_REWARDS)"
        ) from None
    except ValueError as error:
        raise Rejected("bad_reward", str(error)) from None


def check_size(size: int, limit: int) -> None:
    """Raise ``Rejected`` when a task's message is larger than ``limit`` bytes: each sample repeats it."""
    if size > limit:
        raise Rejected(
            "too_large", f"the task is {size} bytes; at most {limit} are taken (LEYDEN_RUNNER_MAX_TASK_BYTES)"
        )


def unknown_policy(ref: str, policies: Collection[str]) -> Rejected:
    """The refusal of a task whose policy was never published."""
    return Rejected("unknown_policy", f"policy {ref!r} is not published; {_listed('policies', policies)}")


def _listed(what: str, names: Collection[str]) -> str:
    shown = sorted(names)[:20]
    return f"known {what}: {', '.join(shown) or 'none'}" + (", …" if len(names) > len(shown) else "")
