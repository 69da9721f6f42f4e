"""Production records on disk while Kafka is away."""

import asyncio
import errno
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from leyden_gateway.errors import RecordingUnavailable
from leyden_gateway.recording.settings import RecordingSettings
from leyden_gateway.recording.spool import Spool, may_spool
from leyden_gateway.recording.spool_file import Spooled, SpoolFile, SpoolUnusable
from leyden_platform.messaging import MemoryPublisher, PublishFailed, Rejected
from leyden_schemas import Mode

DEADLINE_S = 10.0
TOPIC = "leyden.events.v1"
HEADERS = [("ce_id", b"1"), ("traceparent", b"\xff")]


class Kafka(MemoryPublisher):
    """A log that can be away, for all keys or for some, and that refuses what is marked."""

    def __init__(self, *, away: bool = False) -> None:
        super().__init__()
        self.away, self.away_for, self.attempts = away, set[bytes](), 0

    async def publish_encoded(
        self, topic: str, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        self.attempts += 1
        await asyncio.sleep(0)
        if self.away or key in self.away_for:
            raise PublishFailed("away")
        if value == b"too large":
            raise Rejected("too_large", "it is too large")
        await super().publish_encoded(topic, key, value, headers)

    def values(self, key: bytes | None = None) -> list[bytes]:
        return [value for _topic, of, value, _headers in self.encoded if key in (None, of)]


async def opened(folder: Path, kafka: Kafka, max_bytes: int = 1 << 20) -> Spool:
    spool = await Spool.open(RecordingSettings(spool_dir=folder, spool_max_bytes=max_bytes), kafka)
    assert spool
    return spool


@asynccontextmanager
async def running(spool: Spool) -> AsyncIterator[Spool]:
    stop = asyncio.Event()
    task = asyncio.create_task(spool.run(stop))
    try:
        yield spool
    finally:
        stop.set()
        await asyncio.wait_for(task, DEADLINE_S)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - polling a plain predicate, with a deadline
            await asyncio.sleep(0.005)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"leyden_gateway_spool{name}", labels) or 0.0


@pytest.mark.parametrize(
    ("mode", "may"), [(Mode.PRODUCTION, True), (Mode.TRAINING, False), (Mode.EVALUATION, False)]
)
def test_only_production_may_be_spooled(mode: Mode, may: bool) -> None:
    assert may_spool(mode) is may


async def test_there_is_no_spool_unless_a_folder_is_named() -> None:
    assert RecordingSettings().spool_dir is None
    assert await Spool.open(RecordingSettings(), Kafka()) is None


async def test_what_was_put_is_published_whole_once_kafka_is_back(tmp_path: Path) -> None:
    kafka = Kafka(away=True)
    async with running(await opened(tmp_path, kafka)) as spool:
        await spool.put(TOPIC, b"k", b"value", HEADERS)
        assert (spool.depth, counted("_records")) == (1, 1)
        assert spool.size == counted("_bytes") > len(b"value")
        await until(lambda: kafka.attempts)
        kafka.away = False
        await until(lambda: spool.depth == 0)
    assert kafka.encoded == [(TOPIC, b"k", b"value", HEADERS)]
    assert (spool.size, counted("_records"), counted("_bytes")) == (0, 0, 0)


async def test_a_key_keeps_its_order_whatever_happens_to_the_others(tmp_path: Path) -> None:
    kafka = Kafka()
    kafka.away_for = {b"a"}
    async with running(await opened(tmp_path, kafka)) as spool:
        for number in range(600):
            await spool.put(TOPIC, b"ab"[number % 2 : number % 2 + 1], b"%d" % number, [])
        await until(lambda: len(kafka.values(b"b")) >= 100)
        assert kafka.values(b"a") == []
        kafka.away_for = set()
        await until(lambda: spool.depth == 0)
    assert kafka.values(b"a") == [b"%d" % number for number in range(0, 600, 2)]
    assert kafka.values(b"b") == [b"%d" % number for number in range(1, 600, 2)]


async def test_later_records_of_a_key_are_wanted_until_it_is_drained(tmp_path: Path) -> None:
    kafka = Kafka()
    kafka.away_for = {b"held"}
    async with running(await opened(tmp_path, kafka)) as spool:
        assert not spool.wants(b"held")
        await spool.put(TOPIC, b"held", b"1", [])
        assert spool.wants(b"held")
        kafka.away_for = set()
        await until(lambda: not spool.wants(b"held"))
    assert spool.depth == 0


async def test_every_record_is_wanted_while_kafka_is_away(tmp_path: Path) -> None:
    kafka = Kafka(away=True)
    async with running(await opened(tmp_path, kafka)) as spool:
        await spool.put(TOPIC, b"one", b"1", [])
        assert spool.wants(b"another")
        kafka.away = False
        await until(lambda: not spool.wants(b"another"))


async def test_a_restart_finds_what_was_left_and_drains_it_in_order(tmp_path: Path) -> None:
    kafka = Kafka(away=True)
    async with running(await opened(tmp_path, kafka)) as spool:
        await asyncio.gather(*(spool.put(TOPIC, b"k", b"%d" % n, HEADERS) for n in range(20)))
    kafka.away = False
    async with running(await opened(tmp_path, kafka)) as again:
        assert again.wants(b"k") or not again.depth
        await until(lambda: again.depth == 0)
    assert kafka.encoded == [(TOPIC, b"k", b"%d" % n, HEADERS) for n in range(20)]


async def test_a_full_spool_refuses_and_takes_again_when_drained(tmp_path: Path) -> None:
    kafka = Kafka(away=True)
    refused = counted("_refused_total", reason="full")
    async with running(await opened(tmp_path, kafka, max_bytes=1000)) as spool:
        await spool.put(TOPIC, b"k", b"x" * 700, [])
        with pytest.raises(RecordingUnavailable, match="spool is full, with 1 records"):
            await spool.put(TOPIC, b"k", b"x" * 700, [])
        assert counted("_refused_total", reason="full") == refused + 1
        kafka.away = False
        await until(lambda: spool.depth == 0)
        await spool.put(TOPIC, b"k", b"x" * 700, [])


async def test_a_full_disk_refuses_and_leaves_nothing_counted(tmp_path: Path) -> None:
    refused = counted("_refused_total", reason="disk")
    async with running(await opened(tmp_path, Kafka())) as spool:
        spool._file._database.execute("PRAGMA max_page_count=4")
        with pytest.raises(RecordingUnavailable, match="database or disk is full"):
            await spool.put(TOPIC, b"k", b"v" * 100_000, [])
        assert counted("_refused_total", reason="disk") == refused + 1
        assert (spool.depth, spool.size, spool.wants(b"k")) == (0, 0, False)
        spool._file._database.execute("PRAGMA max_page_count=1000000")
        await spool.put(TOPIC, b"k", b"v" * 100_000, [])


async def test_what_could_not_be_deleted_is_not_published_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka, failures = Kafka(), 2
    delete = SpoolFile.delete

    def fails_twice(self: SpoolFile, numbers: Sequence[int]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise sqlite3.OperationalError("disk I/O error")
        delete(self, numbers)

    monkeypatch.setattr(SpoolFile, "delete", fails_twice)
    async with running(await opened(tmp_path, kafka)) as spool:
        await spool.put(TOPIC, b"k", b"v", [])
        await until(lambda: spool.depth == 0)
    assert (failures, kafka.values()) == (0, [b"v"])


async def test_what_the_log_never_takes_is_dropped_and_counted(tmp_path: Path) -> None:
    kafka, dropped = Kafka(), counted("_dropped_total", reason="too_large")
    async with running(await opened(tmp_path, kafka)) as spool:
        await spool.put(TOPIC, b"k", b"too large", [])
        await spool.put(TOPIC, b"k", b"behind it", [])
        await until(lambda: spool.depth == 0)
    assert kafka.values() == [b"behind it"]
    assert counted("_dropped_total", reason="too_large") == dropped + 1


async def test_a_stopped_spool_refuses(tmp_path: Path) -> None:
    async with running(await opened(tmp_path, Kafka())) as spool:
        pass
    with pytest.raises(RecordingUnavailable, match="stopping"):
        await spool.put(TOPIC, b"k", b"v", [])


async def test_a_caller_that_left_leaves_its_record(tmp_path: Path) -> None:
    kafka = Kafka()
    async with running(await opened(tmp_path, kafka)) as spool:
        leaving = asyncio.create_task(spool.put(TOPIC, b"k", b"v", []))
        await asyncio.sleep(0)
        leaving.cancel()
        await until(lambda: kafka.values() == [b"v"])


async def test_stopping_does_not_wait_for_kafka(tmp_path: Path) -> None:
    class Hanging(Kafka):
        async def publish_encoded(self, *_record: object) -> None:
            await asyncio.Event().wait()

    async with running(await opened(tmp_path, Hanging())) as spool:
        await spool.put(TOPIC, b"k", b"v", [])
    kafka = Kafka()
    async with running(await opened(tmp_path, kafka)) as again:
        await until(lambda: again.depth == 0)
    assert kafka.values() == [b"v"]


def record(value: bytes = b"v", key: bytes = b"k") -> Spooled:
    return Spooled(TOPIC, key, value, HEADERS)


def test_a_window_ends_at_its_count_or_its_size(tmp_path: Path) -> None:
    file = SpoolFile.open(tmp_path)
    file.append([record(b"%d" % number) for number in range(5)])
    assert [row[1].value for row in file.oldest(3, 1 << 20)] == [b"0", b"1", b"2"]
    assert [row[1].value for row in file.oldest(9, record().size + 1)] == [b"0", b"1"]
    assert file.contents().size == 5 * record().size
    file.close()


def test_processes_have_files_of_their_own(tmp_path: Path) -> None:
    first, second = SpoolFile.open(tmp_path), SpoolFile.open(tmp_path)
    first.append([record(b"first")])
    assert second.contents().keys.total() == 0
    first.close()
    second.close()
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["spool-0.db", "spool-1.db"]


def test_what_nobody_holds_is_taken_over(tmp_path: Path) -> None:
    files = [SpoolFile.open(tmp_path) for _ in range(3)]
    for number, file in enumerate(files):
        file.append([record(b"%d" % number, key=b"key %d" % number)])
    for file in files:
        file.close()
    only = SpoolFile.open(tmp_path)
    assert [row[1].value for row in only.oldest(9, 1 << 20)] == [b"0", b"1", b"2"]
    assert only.contents().keys == {b"key 0": 1, b"key 1": 1, b"key 2": 1}
    assert [path.name for path in tmp_path.glob("*.db")] == ["spool-0.db"]
    only.close()


def test_a_folder_that_cannot_be_written_is_named_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SpoolUnusable, match=r"LEYDEN_GATEWAY_SPOOL_DIR .*/file/spool: .*Not a directory"):
        SpoolFile.open(tmp_path / "file" / "spool")


def test_a_full_disk_is_named_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(SpoolUnusable, match=r"No space left on device.*with free space"):
        SpoolFile.open(tmp_path)


def test_a_file_that_is_no_spool_is_named_at_start(tmp_path: Path) -> None:
    (tmp_path / "spool-0.db").write_bytes(b"something else" * 100)
    with pytest.raises(SpoolUnusable, match="not a database"):
        SpoolFile.open(tmp_path)
