"""Does the output's query give the rows that the reference gives?

Queries are read-only: the database file is opened so, and an authorizer lets them select, read and call
functions, nothing else (no ATTACH, PRAGMA or writes). Time is computing time, so a busy machine of ours costs
nobody a point.
"""

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from leyden_reward.rewards.library.texts import code_in, reference_of, written
from leyden_schemas import RewardTerm, Trajectory
from leyden_schemas.rewards import Sql, params_of

MOST_ROWS = 100_000
_MOST_BYTES = 10_000_000
_MOST_SQL = 100_000
_HEAP_BYTES = 256 * 1024 * 1024
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)

Rows = list[tuple[Any, ...]]


class QueryFailed(Exception):
    """A query gave no rows that can be compared; the text says why."""


def sql(trajectory: Trajectory) -> list[RewardTerm]:
    """1 when the output, a query (fenced or not), gives the reference's rows, else 0 with the difference.

    The reference is a query or a list of rows. Columns are compared by position, not by name; numbers by
    nine significant digits, 2 and 2.0 alike; rows as a multiset, as a list where their order counts.
    Raises ``ValueError`` when the database or the reference is of no use.
    """
    params, reference = params_of(trajectory.task.reward, Sql), reference_of(trajectory)
    ordered = is_ordered(reference) if params.ordered is None else params.ordered
    with _database(params) as database:
        try:
            wanted = _rows_of(database, reference, params.cpu_s)
        except QueryFailed as error:
            raise ValueError(f"sql: the reference: {error}") from None
        problem = _problem(database, code_in(written(trajectory.output)), wanted, ordered, params.cpu_s)
    return [RewardTerm(name="reward", value=float(problem is None), feedback=problem)]


def is_ordered(reference: object) -> bool:
    """Whether a reference orders its rows: a query with ORDER BY outside of brackets, quotes and comments."""
    if not isinstance(reference, str):
        return False
    text, before = _QUOTED.sub(" ", reference[:_MOST_SQL]), None
    while text != before:
        before, text = text, re.sub(r"\([^()]*\)", " ", text)
    return _ORDER.search(text) is not None


def difference(given: Rows, wanted: Rows, *, ordered: bool) -> str | None:
    """How two results differ, None if they are equal."""
    if given and wanted and len(given[0]) != len(wanted[0]):
        return f"{len(given[0])} columns instead of {len(wanted[0])}"
    if len(given) != len(wanted):
        return f"{len(given)} rows instead of {len(wanted)}"
    ours, theirs = [_plain(row) for row in given], [_plain(row) for row in wanted]
    if Counter(ours) != Counter(theirs):
        odd = next(iter(Counter(ours) - Counter(theirs)))
        return f"a row that is not wanted: {odd!r}"[:500]
    return "the right rows in another order" if ordered and ours != theirs else None


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(float(f"{value:.9g}") if isinstance(value, int | float) else value for value in row)


def _problem(
    database: sqlite3.Connection, query: str, wanted: Rows, ordered: bool, cpu_s: float
) -> str | None:
    try:
        return difference(_rows(database, query, cpu_s), wanted, ordered=ordered)
    except QueryFailed as error:
        return str(error)


def _rows_of(database: sqlite3.Connection, reference: object, cpu_s: float) -> Rows:
    if isinstance(reference, str):
        return _rows(database, reference, cpu_s)
    if isinstance(reference, list) and all(isinstance(row, list) for row in reference):
        return [tuple(row) for row in reference]
    raise QueryFailed("it is neither a query nor a list of rows")


@contextmanager
def _database(params: Sql) -> Iterator[sqlite3.Connection]:
    """``params.database`` is a path here: whoever calls put it in place of its name."""
    if params.database is not None:
        if not Path(params.database).is_file():
            raise ValueError(f"sql: there is no database file at {params.database}")
        database = sqlite3.connect(f"{Path(params.database).absolute().as_uri()}?mode=ro", uri=True)
    else:
        database = sqlite3.connect(":memory:")
    with closing(database):
        if params.setup is not None:
            try:
                database.executescript(params.setup)
            except sqlite3.Error as error:
                raise ValueError(f"sql: params.setup: {error}") from None
        database.execute("PRAGMA temp_store=MEMORY")
        database.execute(f"PRAGMA hard_heap_limit={_HEAP_BYTES}")
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
        database.text_factory = lambda raw: raw.decode(errors="replace")
        database.set_authorizer(_authorize)
        yield database


def _authorize(action: int, *_about: object) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _rows(database: sqlite3.Connection, query: str, cpu_s: float) -> Rows:
    if not query.strip():
        raise QueryFailed("there is no query")
    ends = time.process_time() + cpu_s
    database.set_progress_handler(lambda: time.process_time() > ends, 10_000)
    try:
        rows = database.execute(query[:_MOST_SQL]).fetchmany(MOST_ROWS + 1)
    except MemoryError:
        raise QueryFailed("it needs too much memory") from None
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        late = time.process_time() > ends
        raise QueryFailed(f"it computed over {cpu_s:g} s" if late else str(error)[:500]) from None
    finally:
        database.set_progress_handler(None, 0)
    if len(rows) > MOST_ROWS:
        raise QueryFailed(f"it gives over {MOST_ROWS} rows")
    return rows
