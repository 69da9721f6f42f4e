"""Production records on disk while Kafka is away, published in order when it is back.

Which calls may be spooled, and why the others may not, is ADR 4.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import Any, TypeVar, assert_never

import structlog

from leyden_gateway import metrics
from leyden_gateway.errors import RecordingUnavailable
from leyden_gateway.recording.settings import RecordingSettings
from leyden_gateway.recording.spool_file import Contents, Spooled, SpoolFile
from leyden_platform.messaging import Publisher, PublishFailed, Rejected
from leyden_schemas import Mode

log = structlog.get_logger(__name__)

_WINDOW_RECORDS = 256
_WINDOW_BYTES = 8 * 1024 * 1024
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_GRACE_S = 2.0

T = TypeVar("T")


def may_spool(mode: Mode) -> bool:
    """Whether a call's record may reach the log after the caller has its answer.

    Not that of a rollout: ``RolloutFinished`` comes from its runner by another way and must not overtake it.
    """
    match mode:
        case Mode.PRODUCTION:
            return True
        case Mode.TRAINING | Mode.EVALUATION:
            return False
        case _:
            assert_never(mode)


class _Drained(Enum):
    """What came of an attempt to publish the oldest records."""

    ALL = auto()
    NOTHING = auto()
    NOT_ALL = auto()


class Spool:
    """A component that holds records and drains them; it stops before the publisher it was given.

    A record is deleted once it was acknowledged: after a crash it may be published again, with the same
    event id. Records of a key are published one after another, in the order in which they came.
    """

    def __init__(self, file: SpoolFile, contents: Contents, publisher: Publisher, max_bytes: int) -> None:
        self.name = "spool"
        self._file, self._publisher, self._max_bytes = file, publisher, max_bytes
        self._thread = ThreadPoolExecutor(1, "spool")
        self._size, self._keys = contents
        self._depth = self._keys.total()
        self._away = self._closed = False
        self._unwritten: list[tuple[Spooled, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._acknowledged: list[tuple[int, Spooled]] = []
        self._work = asyncio.Event()
        self._measure()

    @classmethod
    async def open(cls, settings: RecordingSettings, publisher: Publisher) -> "Spool | None":
        """The spool in ``spool_dir``; None without one. Raises ``SpoolUnusable``."""
        if settings.spool_dir is None:
            return None
        file = await asyncio.to_thread(SpoolFile.open, settings.spool_dir)
        contents = await asyncio.to_thread(file.contents)
        return cls(file, contents, publisher, settings.spool_max_bytes)

    @property
    def depth(self) -> int:
        """Records that are not known to be on the log."""
        return self._depth

    @property
    def size(self) -> int:
        """What they count for against the limit."""
        return self._size

    def wants(self, key: bytes) -> bool:
        """Whether a record must be put here without trying Kafka.

        Because records of its key are here and would be overtaken, or because Kafka was away when last tried.
        """
        return self._away or key in self._keys

    async def put(self, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
        """Return with the record on disk. Raises ``RecordingUnavailable``: full, stopped or not writable."""
        record = Spooled(topic, key, value, headers)
        if self._closed:
            raise _refused("stopped", "the gateway is stopping")
        if self._size + record.size > self._max_bytes:
            raise _refused("full", f"its spool is full, with {self._depth} records")
        self._away = self._away or not self._depth
        self._count(record, 1)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unwritten.append((record, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await written

    def not_ready(self) -> str | None:
        """Always ready: what waits here keeps nobody from being served."""
        return None

    async def run(self, stop: asyncio.Event) -> None:
        """Publish what is here, whenever Kafka is there, until ``stop``; then close the file."""
        draining = asyncio.create_task(self._drain_until(stop))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([draining, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self._work.set()
        await asyncio.wait([draining], timeout=_GRACE_S)
        draining.cancel()
        await asyncio.wait([draining])
        await self._close()
        if not draining.cancelled():
            draining.result()

    async def _drain_until(self, stop: asyncio.Event) -> None:
        pause_s = _FIRST_PAUSE_S
        while not stop.is_set():
            self._work.clear()
            match await self._drain():
                case _Drained.ALL:
                    pause_s = _FIRST_PAUSE_S
                case _Drained.NOTHING:
                    await self._work.wait()
                case _Drained.NOT_ALL:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _drain(self) -> _Drained:
        """Publish and delete the oldest records, as many as a window holds."""
        try:
            await self._forget()
            rows = await self._on_disk(self._file.oldest, _WINDOW_RECORDS, _WINDOW_BYTES)
            if not rows:
                return _Drained.NOTHING
            self._acknowledged = await self._publish(rows)
            drained = len(self._acknowledged) == len(rows)
            self._away = not drained
            await self._forget()
        except sqlite3.Error as error:
            log.error("spool_not_drained", error=str(error), depth=self._depth)
            return _Drained.NOT_ALL
        return _Drained.ALL if drained else _Drained.NOT_ALL

    async def _forget(self) -> None:
        """Delete what is on the log already; before anything else, so that it is not published again."""
        if self._acknowledged:
            await self._on_disk(self._file.delete, [number for number, _record in self._acknowledged])
            for _number, record in self._acknowledged:
                self._count(record, -1)
            self._acknowledged = []

    async def _publish(self, rows: Sequence[tuple[int, Spooled]]) -> list[tuple[int, Spooled]]:
        """Those that are over: keys side by side, the records of a key in turn."""
        lanes: dict[bytes, list[tuple[int, Spooled]]] = {}
        for row in rows:
            lanes.setdefault(row[1].key, []).append(row)
        published = await asyncio.gather(*(self._publish_in_turn(lane) for lane in lanes.values()))
        return [row for lane in published for row in lane]

    async def _publish_in_turn(self, lane: Sequence[tuple[int, Spooled]]) -> list[tuple[int, Spooled]]:
        """The records from the first up to the one that Kafka did not acknowledge."""
        for index, (_number, record) in enumerate(lane):
            try:
                await self._publisher.publish_encoded(*record)
                metrics.SPOOL_DRAINED.inc()
            except PublishFailed:
                return list(lane[:index])
            except Rejected as rejected:
                metrics.SPOOL_DROPPED.labels(rejected.reason).inc()
                log.error(
                    "spooled_record_dropped", key=record.key.decode("utf-8", "replace"), error=str(rejected)
                )
        return list(lane)

    async def _write(self) -> None:
        """Write what has gathered, in one transaction, until nothing has."""
        while batch := self._unwritten:
            self._unwritten = []
            try:
                await self._on_disk(self._file.append, [record for record, _written in batch])
            except sqlite3.Error as error:
                for record, written in batch:
                    self._count(record, -1)
                    if not written.done():
                        written.set_exception(_refused("disk", f"its spool cannot be written: {error}"))
                continue
            self._work.set()
            for _record, written in batch:
                if not written.done():
                    written.set_result(None)
        self._writer = None

    async def _close(self) -> None:
        self._closed = True
        if self._writer:
            await self._writer
        await self._on_disk(self._file.close)
        self._thread.shutdown()

    async def _on_disk(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def _count(self, record: Spooled, sign: int) -> None:
        self._size += sign * record.size
        self._depth += sign
        self._keys[record.key] += sign
        if not self._keys[record.key]:
            del self._keys[record.key]
        if not self._depth:
            self._away = False
        self._measure()

    def _measure(self) -> None:
        metrics.SPOOL_RECORDS.set(self._depth)
        metrics.SPOOL_BYTES.set(self._size)


def _refused(reason: str, why: str) -> RecordingUnavailable:
    metrics.SPOOL_REFUSED.labels(reason).inc()
    return RecordingUnavailable(
        f"the completion could not be recorded and is withheld: Kafka is away and {why}"
    )
