"""Records on disk, in the order in which they came: one SQLite file for each process of a folder.

A file belongs to the process that holds its lock, which the kernel takes back from a process that dies.
Whoever opens the folder next takes over what was left in files that nobody holds. All of it blocks.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL
)
"""
_VERSION = 1
_MOST_FILES = 1024
_ROW_BYTES = 64
"""Roughly what a row takes beside its contents."""


class SpoolUnusable(Exception):
    """The folder cannot be written, or what lies there is no spool of ours."""


class Spooled(NamedTuple):
    """One record as it will be published."""

    topic: str
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]

    @property
    def size(self) -> int:
        """What it counts for against the limit."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key) + len(self.value) + headers + _ROW_BYTES


class Contents(NamedTuple):
    """What a file holds: bytes, and how many records of each key."""

    size: int
    keys: Counter[bytes]


class SpoolFile:
    """The file of this process. A write that returned survives the process and the machine."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path, self._lock = path, lock
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(_TABLE)
        self._database.execute(f"PRAGMA user_version={_VERSION}")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Take a file in ``folder`` and move there what dead processes left. Raises ``SpoolUnusable``."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = next(cls._unheld(folder, (folder / f"spool-{n}.db" for n in range(_MOST_FILES))))
            for left in cls._unheld(folder, sorted(folder.glob("spool-*.db"))):
                file._take_over(left)
        except (OSError, sqlite3.Error, StopIteration) as error:
            raise SpoolUnusable(
                f"LEYDEN_GATEWAY_SPOOL_DIR {folder}: {error or 'too many files'}; "
                "name a folder that can be written, with free space, and move away what is not a spool"
            ) from error
        return file

    @classmethod
    def _unheld(cls, folder: Path, paths: "Iterator[Path] | Sequence[Path]") -> Iterator[Self]:
        for path in paths:
            lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            yield cls(path, lock)

    def append(self, records: Sequence[Spooled]) -> None:
        """Write all, or none. Raises ``sqlite3.Error``."""
        rows = [(record.topic, record.key, record.value, _text(record.headers)) for record in records]
        with self._transaction():
            self._database.executemany(
                "INSERT INTO records (topic, key, value, headers) VALUES (?, ?, ?, ?)", rows
            )

    def oldest(self, count: int, size: int) -> list[tuple[int, Spooled]]:
        """The first records with their numbers: ``count`` at most, and as many as make up ``size`` bytes."""
        rows = self._database.execute(
            "SELECT id, topic, key, value, headers FROM records ORDER BY id LIMIT ?", (count,)
        )
        found: list[tuple[int, Spooled]] = []
        for number, topic, key, value, headers in rows:
            record = Spooled(topic, key, value, _headers(headers))
            found.append((number, record))
            size -= record.size
            if size <= 0:
                break
        return found

    def delete(self, numbers: Sequence[int]) -> None:
        """Forget all of these, or none. Raises ``sqlite3.Error``."""
        with self._transaction():
            self._database.executemany("DELETE FROM records WHERE id = ?", [(number,) for number in numbers])

    def contents(self) -> Contents:
        """What is there now."""
        size, keys = 0, Counter[bytes]()
        for key, length, headers in self._database.execute("SELECT key, length(value), headers FROM records"):
            size += Spooled("", key, b"", _headers(headers)).size + length
            keys[key] += 1
        return Contents(size, keys)

    def close(self) -> None:
        """Let another process have the file."""
        self._database.close()
        os.close(self._lock)

    def _take_over(self, left: "SpoolFile") -> None:
        """Move all records of another file behind ours; after a crash in between, some are in both."""
        while rows := left.oldest(_MOST_FILES, 2**24):
            self.append([record for _number, record in rows])
            left.delete([number for number, _record in rows])
        left._database.close()
        for suffix in ("", "-wal", "-shm"):
            left._path.with_name(left._path.name + suffix).unlink(missing_ok=True)
        os.close(left._lock)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise


def _text(headers: Sequence[tuple[str, bytes]]) -> str:
    return json.dumps([(name, value.decode("latin-1")) for name, value in headers])


def _headers(text: str) -> list[tuple[str, bytes]]:
    return [(name, value.encode("latin-1")) for name, value in json.loads(text)]
