"""Which policy references exist, and how long an unknown one is waited for."""

import asyncio
from datetime import UTC, datetime

import pytest

from leyden_platform.messaging import Partition, Record, Unavailable
from leyden_platform.settings import KafkaSettings
from leyden_runner.policies import Policies, PolicyTable
from leyden_schemas import AliasMoved, ModelPublished, Topics, encode, new_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def published(policy: str, version: int) -> ModelPublished:
    return ModelPublished(
        event_id=new_id(), policy=policy, version=version, occurred_at=NOW, artifact="file:///x", digest="d"
    )


def moved(policy: str, alias: str, version: int) -> AliasMoved:
    return AliasMoved(event_id=new_id(), policy=policy, version=version, alias=alias, occurred_at=NOW)


def record(message: ModelPublished | AliasMoved | None, offset: int = 0) -> Record:
    value = encode(message) if message else b"garbage"
    return Record(Partition(Topics.MODELS.name, 0), offset, None, value)


@pytest.mark.parametrize(
    ("ref", "known"),
    [
        ("p", True),
        ("p@0", True),
        ("p@1", False),
        ("p#serving", True),
        ("p#best", False),
        ("q", False),
        ("q#serving", False),
    ],
)
def test_references(ref: str, known: bool) -> None:
    table = PolicyTable()
    for message in (published("p", 0), published("p", 0), moved("p", "serving", 0), moved("q", "serving", 0)):
        table.apply(message)
    assert table.knows(ref) is known
    assert table.names() == ["p"]


def policies(patience_s: float) -> Policies:
    made = Policies(KafkaSettings(), patience_s=patience_s)
    made._caught_up.set()
    return made


async def test_nothing_is_decided_before_the_topic_was_read() -> None:
    waiting = Policies(KafkaSettings())
    assert waiting.not_ready() == "reading leyden.models.v1"
    with pytest.raises(Unavailable):
        await waiting.known("p")


async def test_an_announcement_ends_the_wait() -> None:
    known = policies(patience_s=30)
    asking = asyncio.create_task(known.known("p"))
    await known._take_in([record(None), record(published("p", 0), 1)])
    assert await asking


async def test_only_the_first_to_ask_waits() -> None:
    known = policies(patience_s=0.05)
    loop = asyncio.get_running_loop()
    assert not await known.known("p")
    began = loop.time()
    assert not await known.known("p")
    assert loop.time() - began < 0.04
    await known._take_in([record(published("p", 0))])
    assert await known.known("p")
