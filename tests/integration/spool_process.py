"""A process that spools until it is killed, or that drains; it says on stdout what is safe.

``python spool_process.py <folder> put`` puts numbered records one after another while Kafka is away;
``python spool_process.py <folder> drain <bootstrap> <topic>`` publishes what it finds there.
"""

import asyncio
import sys
from itertools import count
from pathlib import Path

from leyden_gateway.recording.settings import RecordingSettings
from leyden_gateway.recording.spool import Spool
from leyden_platform.messaging import KafkaPublisher, MemoryPublisher, PublishFailed
from leyden_platform.settings import KafkaSettings

KEYS = 3
SIZE = 12_000


class Away(MemoryPublisher):
    """A log that is never there."""

    async def publish_encoded(self, *_record: object) -> None:
        """Raises ``PublishFailed``."""
        raise PublishFailed("away")


def value(number: int) -> bytes:
    """The record with this number."""
    return (b"%d " % number).ljust(SIZE, b"x")


async def put(folder: Path, topic: str) -> None:
    """Put without end; a line with its number says that a record is safe."""
    spool = await Spool.open(RecordingSettings(spool_dir=folder), Away())
    assert spool
    running = asyncio.create_task(spool.run(asyncio.Event()))
    for number in count():
        await spool.put(topic, b"key-%d" % (number % KEYS), value(number), [("ce_id", b"%d" % number)])
        print(number, flush=True)
        assert not running.done()


async def drain(folder: Path, bootstrap: str) -> None:
    """Drain, and go on waiting."""
    publisher = KafkaPublisher(KafkaSettings(bootstrap=bootstrap, idempotent=False), "test")
    await publisher.start()
    spool = await Spool.open(RecordingSettings(spool_dir=folder), publisher)
    assert spool
    print(spool.depth, flush=True)
    await spool.run(asyncio.Event())


if __name__ == "__main__":
    where = Path(sys.argv[1])
    asyncio.run(put(where, sys.argv[3]) if sys.argv[2] == "put" else drain(where, sys.argv[3]))
