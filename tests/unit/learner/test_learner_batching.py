"""When waiting samples make a step, whose turn it is, and from where the log is needed again."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden_learner.batching import BatchRule, SampleBuffer, Turns, Waiting
from leyden_learner.testing import make_row, make_sample, make_span

RULE = BatchRule(min_rollouts=2, timeout_s=10.0, rollouts=4)
SPACE = UUID(int=5)


def waiting(
    index: int, offset: int | None = None, *, partition: int = 0, at_s: float = 0.0, **changes: Any
) -> Waiting:
    """The sample of a rollout, lying at its own number unless said otherwise."""
    return Waiting(make_sample(index, **changes), partition, index if offset is None else offset, at_s)


def member(group: int, index: int, size: int, *, at_s: float = 0.0, **changes: Any) -> Waiting:
    """Rollout ``index`` of a group."""
    group_id = uuid5(SPACE, f"group-{group}")
    wanted: dict[str, Any] = {"group_id": group_id, "group_size": size} | changes
    return waiting(100 * group + index, at_s=at_s, **wanted)


def of_tokens(index: int, tokens: int, queue: str = "default", *, at_s: float = 0.0) -> Waiting:
    """A rollout with so many sampled tokens."""
    row = make_row([1] * (tokens + 1), make_span(1, [-1.0] * tokens))
    return Waiting(make_sample(index, row, queue=queue), 0, index, at_s)


def filled(*samples: Waiting, rule: BatchRule = RULE) -> SampleBuffer:
    """A buffer with these."""
    buffer = SampleBuffer(rule)
    for sample in samples:
        assert buffer.add(sample)
    return buffer


def offsets(step: Sequence[Waiting]) -> list[int]:
    """Where a step's samples lie."""
    return [each.offset for each in step]


def test_a_full_batch_is_taken_at_once_and_in_order_of_arrival() -> None:
    buffer = filled(*map(waiting, range(5)))
    assert offsets(buffer.step(0.0)) == [0, 1, 2, 3]
    assert len(buffer) == 1


def test_a_partial_batch_waits_for_its_time_and_its_minimum() -> None:
    three, one = filled(*map(waiting, range(3))), filled(waiting(0))
    assert three.step(9.9) == []
    assert len(three.step(10.0)) == 3
    assert one.step(1e9) == []
    assert SampleBuffer(RULE).step(1e9) == []


def test_the_first_sample_of_a_rollout_wins() -> None:
    buffer = filled(waiting(0))
    assert not buffer.add(waiting(0, offset=7))
    assert buffer.count("default") == 1
    assert offsets(buffer.evict(lambda _: True)) == [0]


def test_evicted_samples_are_returned_and_gone() -> None:
    buffer = filled(*map(waiting, range(3)))
    assert offsets(buffer.evict(lambda sample: sample.reward == 1.0)) == [1]
    assert (len(buffer), buffer.count("default")) == (2, 2)


def test_the_low_watermark_is_the_first_waiting_sample_of_each_partition() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=1.0, rollouts=1)
    buffer = filled(waiting(0, 10), waiting(1, 12), waiting(2, 3, partition=1), rule=rule)
    assert buffer.low_watermark({0: 15, 1: 4, 2: 9}) == {0: 10, 1: 3, 2: 9}
    assert buffer.low_watermark({0: 15}) == {0: 10}, "the scan has not seen the others yet"
    buffer.step(0.0)
    assert buffer.low_watermark({0: 15, 1: 4, 2: 9}) == {0: 12, 1: 3, 2: 9}
    buffer.step(0.0)
    buffer.step(0.0)
    assert buffer.low_watermark({0: 15, 1: 4, 2: 9}) == {0: 15, 1: 4, 2: 9}


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 5))
def test_reading_again_from_the_watermark_finds_every_untrained_rollout(log: list[int], batch: int) -> None:
    buffer = SampleBuffer(BatchRule(min_rollouts=1, timeout_s=1.0, rollouts=batch))
    trained: set[int] = set()
    for offset, index in enumerate(log):
        if index not in trained:
            buffer.add(waiting(index, offset))
        trained |= {log[each.offset] for each in buffer.step(0.0)}
        low = buffer.low_watermark({0: offset + 1})[0]
        assert set(log[: offset + 1]) - trained <= set(log[low : offset + 1])


TOKENS = BatchRule(min_rollouts=1, timeout_s=10.0, tokens=10)


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ([4, 6, 1], [0, 1]),  # exactly the budget
        ([4, 5, 2], [0, 1]),  # the third does not fit
        ([4, 5], []),  # there is room for more
        ([11, 1], [0]),  # larger than the budget: a step by itself
        ([9, 11], [0]),
    ],
)
def test_a_token_budget_is_filled_and_not_exceeded(sizes: list[int], taken: list[int]) -> None:
    buffer = filled(*(of_tokens(index, size) for index, size in enumerate(sizes)), rule=TOKENS)
    assert offsets(buffer.step(0.0)) == taken
    if not taken:
        assert offsets(buffer.step(10.0)) == [0, 1]


def test_of_two_limits_the_first_that_is_reached_counts() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=10.0, rollouts=2, tokens=10)
    assert offsets(filled(*(of_tokens(i, 1) for i in range(3)), rule=rule).step(0.0)) == [0, 1]
    assert offsets(filled(*(of_tokens(i, 9) for i in range(3)), rule=rule).step(0.0)) == [0]


GROUPS = BatchRule(min_rollouts=1, timeout_s=10.0, groups=2)


def test_groups_are_taken_whole_and_in_order_of_their_first_rollout() -> None:
    one, two, three = ([member(group, index, 2) for index in range(2)] for group in range(3))
    buffer = filled(one[0], two[0], two[1], three[0], rule=GROUPS)
    assert buffer.step(0.0) == []
    buffer.add(three[1])
    assert offsets(buffer.step(0.0)) == [100, 101, 200, 201]
    assert buffer.step(0.0) == []
    buffer.add(one[1])
    assert buffer.step(9.0) == []
    assert offsets(buffer.step(10.0)) == [0, 1]


def test_a_group_waits_for_the_samples_that_credit_says_it_gave() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=10.0, groups=1)
    four_of_which_two = [member(0, index, 4, group_samples=2) for index in range(2)]
    buffer = filled(four_of_which_two[0], rule=rule)
    assert buffer.step(0.0) == []
    buffer.add(four_of_which_two[1])
    assert len(buffer.step(0.0)) == 2


def test_a_group_does_not_wait_for_rollouts_that_were_refused_or_trained() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=10.0, groups=1)
    buffer = filled(member(0, 0, 3), member(0, 1, 3), rule=rule)
    assert buffer.step(0.0) == []
    buffer.settle(member(0, 2, 3).sample)
    buffer.settle(member(0, 2, 3).sample)
    assert len(buffer.step(0.0)) == 2
    buffer = filled(member(1, 0, 3), member(1, 1, 3), rule=rule)
    assert len(buffer.step(10.0)) == 2
    buffer.add(member(1, 2, 3, at_s=11.0))
    assert len(buffer.step(11.0)) == 1


def test_an_incomplete_group_waits_for_its_time_and_holds_up_no_other() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=10.0, groups=1)
    buffer = filled(member(0, 0, 8), member(1, 0, 1, at_s=5.0), rule=rule)
    assert offsets(buffer.step(5.0)) == [100]
    assert buffer.step(9.0) == []
    assert offsets(buffer.step(10.0)) == [0]


def test_a_full_share_is_not_waited_for_longer() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=10.0, tokens=1000, share=3)
    assert filled(*(of_tokens(i, 1) for i in range(2)), rule=rule).step(0.0) == []
    assert len(filled(*(of_tokens(i, 1) for i in range(3)), rule=rule).step(0.0)) == 3


def test_queues_take_turns_in_a_step() -> None:
    flood = [waiting(index, queue="flood") for index in range(8)]
    buffer = filled(*flood, waiting(8, queue="small"), waiting(9, queue="small"))
    assert offsets(buffer.step(0.0)) == [0, 8, 1, 9]
    assert offsets(buffer.step(0.0)) == [2, 3, 4, 5]


def test_of_two_queues_that_had_as_much_the_one_whose_next_lies_first_is_next() -> None:
    """What was left on the log is read late, and early by a learner that goes on after a crash."""
    rule = BatchRule(min_rollouts=1, timeout_s=1.0, rollouts=1)
    buffer = filled(waiting(7, queue="a", at_s=1.0), waiting(3, queue="b", at_s=2.0), rule=rule)
    assert offsets(buffer.step(9.0)) == [3]


def test_a_queue_with_twice_the_weight_gets_twice_as_much() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=1.0, rollouts=6, weights={"gpu": 2.0})
    both = [waiting(index, queue="gpu" if index % 2 else "cpu") for index in range(24)]
    step = filled(*both, rule=rule).step(0.0)
    assert Counter(each.sample.queue for each in step) == {"gpu": 4, "cpu": 2}


def test_shares_of_a_token_budget_are_counted_in_tokens() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=1.0, tokens=20)
    long = [of_tokens(index, 10, "long") for index in range(4)]
    short = [of_tokens(index, 1, "short") for index in range(10, 30)]
    step = filled(*long, *short, rule=rule).step(0.0)
    assert Counter(each.sample.queue for each in step) == {"long": 1, "short": 10}


def test_a_queue_that_comes_back_is_not_paid_for_the_time_it_was_away() -> None:
    rule = BatchRule(min_rollouts=1, timeout_s=1.0, rollouts=2)
    buffer = filled(*(waiting(index, queue="busy") for index in range(20)), rule=rule)
    for _ in range(5):
        buffer.step(0.0)
    for index in range(20, 26):
        buffer.add(waiting(index, queue="idle"))
    queues = [[each.sample.queue for each in buffer.step(0.0)] for _ in range(3)]
    assert all(sorted(step) == ["busy", "idle"] for step in queues)


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=30),
    st.integers(1, 5),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from([2.0, 0.5, 3.0])),
)
@example(["a"] * 8 + ["b"] * 4, 3, {})
def test_a_buffer_made_anew_after_a_step_takes_the_same_next_steps(
    arrivals: list[str], batch: int, weights: dict[str, float]
) -> None:
    """As a learner does that is killed between two steps: its turns go through JSON."""
    rule = BatchRule(1, 1.0, rollouts=batch, weights=weights)
    left = [waiting(index, at_s=index / 100, queue=queue) for index, queue in enumerate(arrivals)]
    steady, turns = filled(*left, rule=rule), Turns()
    while step := steady.step(1e9):
        resumed = SampleBuffer(rule, Turns.of(json.loads(json.dumps(turns.as_json()))))
        assert all(map(resumed.add, left))
        assert offsets(resumed.step(1e9)) == offsets(step)
        turns, left = resumed.turns, [each for each in left if each not in step]
    assert left == []


def test_a_group_that_lost_a_rollout_before_a_crash_is_not_waited_for_after_it() -> None:
    """What was refused lies before the offsets that a resumed learner goes on from."""
    rule = BatchRule(min_rollouts=1, timeout_s=10.0, groups=1)
    steady = SampleBuffer(rule)
    steady.settle(member(1, 0, 3).sample)
    waits = [member(0, 0, 1), member(1, 1, 3), member(1, 2, 3)]
    assert all(map(steady.add, waits))
    assert offsets(steady.step(0.0)) == [0]
    assert steady.low_watermark({0: 999}) == {0: 101}
    resumed = SampleBuffer(rule, Turns.of(json.loads(json.dumps(steady.turns.as_json()))))
    assert all(map(resumed.add, waits[1:]))
    assert offsets(resumed.step(0.0)) == offsets(steady.step(0.0)) == [101, 102]
    assert resumed.turns.settled == {}


RULES = st.one_of(
    st.builds(lambda n: BatchRule(1, 3.0, rollouts=n, share=9), st.integers(1, 5)),
    st.builds(lambda n: BatchRule(1, 3.0, groups=n, share=9), st.integers(1, 3)),
    st.builds(lambda n: BatchRule(1, 3.0, tokens=n, share=9), st.integers(1, 40)),
    st.builds(
        lambda g, n: BatchRule(1, 3.0, groups=g, tokens=n, share=9), st.integers(1, 3), st.integers(1, 40)
    ),
)
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(1, 12), st.sampled_from("abc")), max_size=40
)


@given(RULES, ARRIVALS)
def test_whatever_the_rule_nothing_is_lost_or_taken_twice_and_no_limit_is_passed(
    rule: BatchRule, arrivals: list[tuple[int, int, int, str]]
) -> None:
    buffer, added, steps = SampleBuffer(rule), set[UUID](), list[list[Waiting]]()
    for offset, (group, index, tokens, queue) in enumerate(arrivals):
        row = make_row([1] * (tokens + 1), make_span(1, [-1.0] * tokens))
        sample = make_sample(
            100 * group + index, row, group_id=uuid5(SPACE, str(group)), group_size=4, queue=queue
        )
        if sample.rollout_id not in added:
            added.add(sample.rollout_id)
            assert buffer.add(Waiting(sample, 0, offset, float(offset)))
        steps.append(buffer.step(float(offset)))
        assert buffer.low_watermark({0: offset + 1})[0] <= min(
            (o for o, (g, i, *_) in enumerate(arrivals[: offset + 1]) if waits(buffer, g, i)),
            default=offset + 1,
        )
    while step := buffer.step(1e9):
        steps.append(step)
    assert len(buffer) == 0
    taken = [each.sample.rollout_id for step in steps for each in step]
    assert len(taken) == len(set(taken))
    assert set(taken) == added
    for step in filter(None, steps):
        assert not rule.rollouts or len(step) <= rule.rollouts
        assert not rule.groups or len({each.sample.group_id for each in step}) <= rule.groups
        units = {each.sample.group_id if rule.groups else each.sample.rollout_id for each in step}
        tokens = sum(each.sample.sampled_tokens for each in step)
        assert not rule.tokens or tokens <= rule.tokens or len(units) == 1


def waits(buffer: SampleBuffer, group: int, index: int) -> bool:
    """Whether a rollout is in the buffer."""
    return make_sample(100 * group + index).rollout_id in buffer


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=60),
    st.integers(1, 6),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([1.0, 2.0, 0.5])),
)
def test_no_queue_waits_for_more_than_its_turn(
    arrivals: list[str], batch: int, weights: dict[str, float]
) -> None:
    """Between two turns of a queue that has rollouts waiting, every other gets what its weight allows."""
    rule = BatchRule(1, 1.0, rollouts=batch, weights=weights)
    buffer = filled(*(waiting(i, queue=queue) for i, queue in enumerate(arrivals)), rule=rule)
    order = [each.sample.queue for _ in arrivals for each in buffer.step(1e9)]
    assert len(order) == len(arrivals)
    left = Counter(arrivals)
    since: dict[str, Counter[str]] = {queue: Counter() for queue in left}
    for queue in order:
        left[queue] -= 1
        since[queue].clear()
        for other in since:
            if other != queue and left[other]:
                since[other][queue] += 1
                allowed = rule.weight(queue) / rule.weight(other)
                assert since[other][queue] <= allowed + 1
