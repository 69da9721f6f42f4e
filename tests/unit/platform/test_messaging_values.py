"""The pure parts of the seam: watermarks, failure policy, dead letters."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.messaging import FailurePolicy, MemoryPublisher, OffsetTracker, Partition, Record
from leyden_platform.messaging.deadletter import MAX_VALUE_BYTES, dead_letter
from leyden_platform.messaging.policy import BadShare
from leyden_platform.messaging.publisher import cloud_event_headers
from leyden_schemas import Task, decode, encode


def test_the_watermark_is_the_oldest_open_offset() -> None:
    tracker = OffsetTracker()
    assert tracker.low() is None
    for offset in (7, 3, 9, 3):
        tracker.begin(offset)
    assert (tracker.low(), len(tracker)) == (3, 3)
    tracker.done(3)
    assert tracker.low() == 3, "3 was held twice"
    tracker.done(3)
    assert tracker.low() == 7
    tracker.done(9)
    tracker.done(7)
    assert tracker.low() is None
    with pytest.raises(KeyError):
        tracker.done(7)


@given(st.lists(st.integers(0, 30)), st.randoms(use_true_random=False))
def test_the_watermark_is_the_minimum_of_what_is_open(offsets: list[int], random: Random) -> None:
    tracker, still_open = OffsetTracker(), list(offsets)
    for offset in offsets:
        tracker.begin(offset)
    random.shuffle(offsets)
    for offset in offsets:
        assert tracker.low() == min(still_open)
        tracker.done(offset)
        still_open.remove(offset)
    assert tracker.low() is None


def test_pauses_double_up_to_a_bound() -> None:
    policy = FailurePolicy(backoff_s=0.5, backoff_max_s=3)
    assert [policy.pause_s(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 3]


def test_a_consumer_stops_only_beyond_both_bounds() -> None:
    share = BadShare(FailurePolicy(window=10, bad_share=0.5, bad_minimum=3))
    for bad in (True, True):
        share.record(bad=bad)
    assert not share.exceeded(), "two of two are bad, but two are too few to judge"
    share.record(bad=True)
    assert share.exceeded()
    for _ in range(4):
        share.record(bad=False)
    assert not share.exceeded(), "3 of 7"
    for _ in range(10):
        share.record(bad=False)
    assert share.bad == 0


def record(value: bytes) -> Record:
    return Record(Partition("leyden.tasks.v1", 2), 41, b"\xffkey", value, {"h": "v" * 5000})


def test_a_dead_letter_keeps_the_original() -> None:
    letter = dead_letter(
        record(b"\x00bytes"), consumer="runner", reason="malformed", error=ValueError("why"), attempts=1
    )
    assert (letter.value, letter.size, letter.truncated) == (b"\x00bytes", 6, False)
    assert (letter.source_topic, letter.source_partition, letter.source_offset) == ("leyden.tasks.v1", 2, 41)
    assert letter.error == "ValueError: why"
    assert len(letter.source_headers["h"]) == 2000
    assert decode("leyden.deadletters.v1", encode(letter)) == letter


def test_a_large_value_is_cut() -> None:
    letter = dead_letter(
        record(b"x" * (MAX_VALUE_BYTES + 1)), consumer="c", reason="r", error=ValueError(), attempts=1
    )
    assert (len(letter.value), letter.size, letter.truncated) == (MAX_VALUE_BYTES, MAX_VALUE_BYTES + 1, True)


def test_the_same_record_gives_the_same_dead_letter_id() -> None:
    one, two = (
        dead_letter(record(b""), consumer=c, reason="r", error=ValueError(), attempts=1) for c in ("a", "a")
    )
    other = dead_letter(record(b""), consumer="b", reason="r", error=ValueError(), attempts=1)
    assert one.dead_letter_id == two.dead_letter_id != other.dead_letter_id


def test_cloud_event_headers() -> None:
    headers = cloud_event_headers(Task(task_id="t", input={}, policy="p"), "cli", "t")
    assert headers["ce_specversion"] == "1.0"
    assert (headers["ce_type"], headers["ce_source"]) == ("dev.leyden.Task", "/leyden/cli")


async def test_the_memory_publisher_keeps_order() -> None:
    publisher = MemoryPublisher()
    tasks = [Task(task_id=str(i), input={}, policy="p") for i in range(3)]
    await publisher.publish(*tasks)
    assert publisher.published == tasks
