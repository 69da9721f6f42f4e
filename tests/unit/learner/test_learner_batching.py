"""When waiting samples make a step, and from where the log is needed again."""

from hypothesis import given
from hypothesis import strategies as st

from leyden_learner.batching import BatchRule, SampleBuffer, Waiting
from leyden_learner.testing import make_sample

RULE = BatchRule(batch_rollouts=4, min_rollouts=2, timeout_s=10.0)


def waiting(index: int, offset: int | None = None, *, partition: int = 0, at_s: float = 0.0) -> Waiting:
    """The sample of a rollout, lying at its own number unless said otherwise."""
    return Waiting(make_sample(index), partition, index if offset is None else offset, at_s)


def filled(count: int) -> SampleBuffer:
    """A buffer with the first ``count`` rollouts."""
    buffer = SampleBuffer(RULE)
    for index in range(count):
        assert buffer.add(waiting(index))
    return buffer


def test_a_full_batch_is_ready_at_once_and_taken_in_order_of_arrival() -> None:
    buffer = filled(5)
    assert buffer.ready(0.0) == 4
    assert [each.offset for each in buffer.take(4)] == [0, 1, 2, 3]
    assert len(buffer) == 1


def test_a_partial_batch_waits_for_its_time_and_its_minimum() -> None:
    assert filled(3).ready(9.9) == 0
    assert filled(3).ready(10.0) == 3
    assert filled(1).ready(1e9) == 0
    assert SampleBuffer(RULE).ready(1e9) == 0


def test_the_first_sample_of_a_rollout_wins() -> None:
    buffer = filled(1)
    assert not buffer.add(waiting(0, offset=7))
    assert [each.offset for each in buffer.take(1)] == [0]


def test_evicted_samples_are_returned_and_gone() -> None:
    buffer = filled(3)
    gone = buffer.evict(lambda sample: sample.reward == 1.0)
    assert [each.offset for each in gone] == [1]
    assert len(buffer) == 2


def test_the_low_watermark_is_the_first_waiting_sample_of_each_partition() -> None:
    buffer = SampleBuffer(RULE)
    for each in (waiting(0, 10), waiting(1, 12), waiting(2, 3, partition=1)):
        buffer.add(each)
    assert buffer.low_watermark({0: 15, 1: 4, 2: 9}) == {0: 10, 1: 3, 2: 9}
    buffer.take(1)
    assert buffer.low_watermark({0: 15, 1: 4, 2: 9}) == {0: 12, 1: 3, 2: 9}
    buffer.take(2)
    assert buffer.low_watermark({0: 15, 1: 4, 2: 9}) == {0: 15, 1: 4, 2: 9}


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 5))
def test_reading_again_from_the_watermark_finds_every_untrained_rollout(log: list[int], batch: int) -> None:
    buffer = SampleBuffer(BatchRule(batch, 1, 1.0))
    trained: set[int] = set()
    for offset, index in enumerate(log):
        if index not in trained:
            buffer.add(waiting(index, offset))
        if count := buffer.ready(0.0):
            trained |= {log[each.offset] for each in buffer.take(count)}
        low = buffer.low_watermark({0: offset + 1})[0]
        assert set(log[: offset + 1]) - trained <= set(log[low : offset + 1])
