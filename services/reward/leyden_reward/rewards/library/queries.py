"""Runs a query and compares its rows: by path, in a process of its own, with nothing of ours to import.

One function call can compute for minutes, and SQLite looks at no deadline within it; so the kernel ends this
process when the computing time is used up. Who reads its lines knows how far it got: the first comes when
setup and reference have run, and so what happens next is the query's doing.
"""

import json
import resource
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

MOST_ROWS = 100_000
MOST_SQL = 100_000
_MOST_BYTES = 10_000_000
_HEAP_BYTES, _MEMORY_BYTES = 256 * 1024 * 1024, 1024 * 1024 * 1024
_EXACT = 2**53
_ROUNDING = 1e-12
_SELECTING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_FILES = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}
_READ_INSIDE = {"data_version", "page_size"}
"""Settings that SQLite's own full text and R*Tree tables read."""
_SETTINGS = {
    "foreign_keys",
    "encoding",
    "user_version",
    "application_id",
    "recursive_triggers",
    "defer_foreign_keys",
}

Rows = list[tuple[Any, ...]]


class QueryFailed(Exception):
    """A query gave no rows that can be compared; the text says why."""


def main() -> None:
    """One line when the reference's rows are known, or with its fault; then one with the query's problem."""
    job = json.load(sys.stdin)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    bound = _MEMORY_BYTES if most == resource.RLIM_INFINITY else min(most, _MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with closing(_opened(job["database"])) as database:
        try:
            if job["setup"] is not None:
                set_up(database, job["setup"], job["cpu_s"])
            _connect_virtual(database)
            wanted = _wanted(database, job["reference"], job["cpu_s"])
        except QueryFailed as error:
            return _say({"fault": str(error)})
        _say({"ready": True})
        return _say({"problem": _problem(database, job, wanted)})


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _opened(file: str | None) -> sqlite3.Connection:
    place = ":memory:" if file is None else f"{Path(file).absolute().as_uri()}?mode=ro"
    database = sqlite3.connect(place, uri=True)
    database.execute("PRAGMA temp_store=MEMORY")
    database.execute(f"PRAGMA hard_heap_limit={_HEAP_BYTES}")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
    database.text_factory = lambda raw: raw.decode(errors="replace")
    return database


def set_up(database: sqlite3.Connection, script: str, cpu_s: float) -> None:
    """Fill an empty database; no file is opened or written. Raises ``QueryFailed``."""
    database.set_authorizer(_while_setting_up)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        database.executescript(script)
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        raise QueryFailed(f"params.setup: {error}") from None
    signal.setitimer(signal.ITIMER_PROF, 0)


def _connect_virtual(database: sqlite3.Connection) -> None:
    """Open virtual tables, those of functions too: to SQLite it is writing, which queries may not."""
    database.set_authorizer(None)
    made = "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%'"
    names = [str(name).replace('"', '""') for (name,) in database.execute(made)]
    for table in ("json_each('[]')", "json_tree('[]')", *(f'"{name}"' for name in names)):
        with suppress(sqlite3.Error):  # whoever selects from one that does not open is told
            database.execute(f"SELECT 1 FROM {table} LIMIT 0")


def rows_of(database: sqlite3.Connection, query: str, cpu_s: float) -> Rows:
    """What a query selects; it can do nothing else. Raises ``QueryFailed``."""
    if not query.strip():
        raise QueryFailed("there is no query")
    database.set_authorizer(_while_selecting)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        rows = database.execute(query[:MOST_SQL]).fetchmany(MOST_ROWS + 1)
    except MemoryError:
        raise QueryFailed("it needs too much memory") from None
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        raise QueryFailed(str(error)[:500]) from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if len(rows) > MOST_ROWS:
        raise QueryFailed(f"it gives over {MOST_ROWS} rows")
    return rows


def difference(given: Rows, wanted: Rows, *, ordered: bool) -> str | None:
    """How two results differ, None if they are equal."""
    if given and wanted and len(given[0]) != len(wanted[0]):
        return f"{len(given[0])} columns instead of {len(wanted[0])}"
    if len(given) != len(wanted):
        return f"{len(given)} rows instead of {len(wanted)}"
    ours, theirs = [tuple(map(_plain, row)) for row in given], [tuple(map(_plain, row)) for row in wanted]
    if Counter(ours) != Counter(theirs):
        odd = next(iter(Counter(ours) - Counter(theirs)))
        return f"a row that is not wanted: {odd!r}"[:500]
    return "the right rows in another order" if ordered and ours != theirs else None


def _plain(value: Any) -> Any:
    """Whole numbers exactly, 2.0 like 2, and so what only rounding keeps from being one; other numbers, and
    too large ones, by nine significant digits.
    """
    if not isinstance(value, float) or (value.is_integer() and abs(value) < _EXACT):
        return value
    if 1 <= abs(value) < _EXACT and abs(value - (whole := round(value))) <= _ROUNDING * abs(value):
        return whole
    return float(f"{value:.9g}")


def _while_setting_up(action: int, name: str | None, given: str | None, *_about: object) -> int:
    pragma = action == sqlite3.SQLITE_PRAGMA and name not in _SETTINGS and not _is_read(name, given)
    return sqlite3.SQLITE_DENY if action in _FILES or pragma else sqlite3.SQLITE_OK


def _while_selecting(action: int, name: str | None, given: str | None, *_about: object) -> int:
    read = action == sqlite3.SQLITE_PRAGMA and _is_read(name, given)
    return sqlite3.SQLITE_OK if action in _SELECTING or read else sqlite3.SQLITE_DENY


def _is_read(name: str | None, given: str | None) -> bool:
    return name in _READ_INSIDE and given is None


def _wanted(database: sqlite3.Connection, reference: Any, cpu_s: float) -> Rows:
    try:
        return rows_of(database, reference, cpu_s) if isinstance(reference, str) else _listed(reference)
    except QueryFailed as error:
        raise QueryFailed(f"the reference: {error}") from None


def _listed(reference: Any) -> Rows:
    rows = []
    for row in reference if isinstance(reference, list) else [None]:
        if not isinstance(row, list) or any(isinstance(value, list | dict) for value in row):
            raise QueryFailed("it is neither a query nor a list of rows")
        rows.append(tuple(row))
    return rows


def _problem(database: sqlite3.Connection, job: dict[str, Any], wanted: Rows) -> str | None:
    try:
        return difference(rows_of(database, job["query"], job["cpu_s"]), wanted, ordered=job["ordered"])
    except QueryFailed as error:
        return str(error)


if __name__ == "__main__":
    main()
