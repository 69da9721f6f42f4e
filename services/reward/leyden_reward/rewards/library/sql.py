"""Does the output's query give the rows that the reference gives?

Queries are read-only: the database file is opened so, and an authorizer lets them select, read and call
functions, nothing else (no ATTACH, PRAGMA or writes). Time is computing time, so a busy machine of ours costs
nobody a point, and ``queries.py`` spends it in a process of its own.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from leyden_reward.rewards.library.queries import MOST_SQL
from leyden_reward.rewards.library.texts import TaskFault, code_in, reference_of, written
from leyden_schemas import RewardTerm, Trajectory
from leyden_schemas.rewards import Sql, params_of

_QUERIES = Path(__file__).with_name("queries.py")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_OUT_OF_TIME = {-signal.SIGPROF, -signal.SIGKILL}


def sql(trajectory: Trajectory) -> list[RewardTerm]:
    """1 when the output, a query (fenced or not), gives the reference's rows, else 0 with the difference.

    The reference is a query or a list of rows. Columns are compared by position, not by name; whole numbers
    exactly, others by nine significant digits, 2 and 2.0 alike; rows as a multiset, as a list where their
    order counts. Raises ``TaskFault`` when the database or the reference is of no use.
    """
    params, reference = params_of(trajectory.task.reward, Sql), reference_of(trajectory)
    if params.database is not None and not Path(params.database).is_file():
        raise TaskFault(f"sql: there is no database file at {params.database}")
    problem = _judged(
        database=params.database,  # a path here: whoever calls put it in place of its name
        setup=params.setup,
        reference=reference,
        query=code_in(written(trajectory.output), "sql", "sqlite"),
        ordered=is_ordered(reference) if params.ordered is None else params.ordered,
        cpu_s=params.cpu_s,
    )
    return [RewardTerm(name="reward", value=float(problem is None), feedback=problem)]


def is_ordered(reference: object) -> bool:
    """Whether a reference orders its rows: a query with ORDER BY outside of brackets, quotes and comments."""
    if not isinstance(reference, str):
        return False
    text, before = _QUOTED.sub(" ", reference[:MOST_SQL]), None
    while text != before:
        before, text = text, re.sub(r"\([^()]*\)", " ", text)
    return _ORDER.search(text) is not None


def _judged(*, cpu_s: float, **job: Any) -> str | None:
    """What is wrong with the query, None if nothing; ``TaskFault`` for what comes before it."""
    order = json.dumps({**job, "cpu_s": cpu_s}).encode()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(_QUERIES)], input=order, capture_output=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    late = done.returncode in _OUT_OF_TIME
    why = f"it computed over {cpu_s:g} s" if late else f"it ended SQLite: {done.stderr[-300:].decode()}"
    match lines:
        case [{"ready": True}, {"problem": problem}]:
            return None if problem is None else str(problem)
        case [{"fault": fault}]:
            raise TaskFault(f"sql: {fault}")
        case [{"ready": True}]:
            return why
        case _:
            raise TaskFault(f"sql: params.setup or the reference: {why}")
