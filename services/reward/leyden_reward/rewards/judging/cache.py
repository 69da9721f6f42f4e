"""Verdicts by the digest of what was asked: equal questions are paid once, and a replay agrees with itself.

SQLite, in memory unless a file is given; bounded, those used longest ago go first. A file that cannot be read
or written costs calls, never rollouts.
"""

import sqlite3
from contextlib import closing

import structlog

log = structlog.get_logger(__name__)
_TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (question BLOB PRIMARY KEY, answer TEXT NOT NULL, used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS verdicts_used ON verdicts (used);
"""
_USE = "UPDATE verdicts SET used = (SELECT coalesce(max(used), 0) + 1 FROM verdicts) WHERE question = ?"
_KEEP = """
INSERT OR REPLACE INTO verdicts VALUES (?, ?, (SELECT coalesce(max(used), 0) + 1 FROM verdicts))
"""
_TRIM = """
DELETE FROM verdicts WHERE question IN (
    SELECT question FROM verdicts ORDER BY used DESC LIMIT -1 OFFSET ?
)
"""


class VerdictCache:
    """Answers by question. ``entries`` bounds them."""

    def __init__(self, file: str = ":memory:", entries: int = 100_000) -> None:
        self._file, self._entries = file, entries
        self._database: sqlite3.Connection | None = None

    def get(self, question: bytes) -> str | None:
        """The answer to an equal question, None if there is none."""
        try:
            with self._open() as database:
                found = database.execute(
                    "SELECT answer FROM verdicts WHERE question = ?", [question]
                ).fetchone()
                if found:
                    database.execute(_USE, [question])
        except sqlite3.Error as error:
            log.warning("judge_cache_failed", file=self._file, error=str(error))
            return None
        return str(found[0]) if found else None

    def put(self, question: bytes, answer: str) -> None:
        """Keep an answer."""
        try:
            with self._open() as database:
                database.execute(_KEEP, [question, answer])
                database.execute(_TRIM, [self._entries])
        except sqlite3.Error as error:
            log.warning("judge_cache_failed", file=self._file, error=str(error))

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            with closing(self._database):
                self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._file, timeout=1.0)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.executescript(_TABLE)
            self._database = database
        return self._database
