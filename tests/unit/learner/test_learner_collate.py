"""Rows to tensors: what lies where, how rows are portioned, and that fragments weigh what the whole did."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden_learner.collate import collate, idle, share_out, split, weigh
from leyden_learner.objective.aggregation import rollout_mean
from leyden_learner.testing import make_row, make_sample, make_span


@pytest.mark.parametrize("packed", [True, False])
def test_tensors_of_two_rows(packed: bool) -> None:
    long = make_row([5, 6, 7, 8], make_span(1, [-0.1], 2.0), make_span(3, [-0.3], -1.0))
    short = make_row([9, 10], make_span(1, [-0.2], 0.5))
    batch = collate(weigh([make_sample(0, short), make_sample(1, long)], rollout_mean), packed=packed)
    if packed:
        assert batch.token_ids_bt.tolist() == [[5, 6, 7, 8, 9, 10]]
        assert batch.positions_bt.tolist() == [[0, 1, 2, 3, 0, 1]]
        assert (batch.row_n.tolist(), batch.position_n.tolist()) == ([0, 0, 0], [1, 3, 5])
        assert batch.row_lengths == (4, 2)
    else:
        assert batch.token_ids_bt.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
        assert batch.positions_bt.tolist() == [[0, 1, 2, 3]] * 2
        assert (batch.row_n.tolist(), batch.position_n.tolist()) == ([0, 0, 1], [1, 3, 1])
        assert batch.row_lengths is None
    assert batch.sequence_n.tolist() == [0, 1, 2]
    assert batch.targets_n.tolist() == [6, 8, 10]
    assert batch.sampler_logprobs_n.tolist() == pytest.approx([-0.1, -0.3, -0.2])
    assert batch.advantages_n.tolist() == [2.0, -1.0, 0.5]
    assert batch.weights_n.tolist() == [0.25, 0.25, 0.5]


def test_the_batch_does_not_depend_on_the_order_of_arrival() -> None:
    samples = [make_sample(index) for index in range(6)]
    one, other = (collate(weigh(order, rollout_mean)) for order in (samples, samples[::-1]))
    assert torch.equal(one.token_ids_bt, other.token_ids_bt)
    assert torch.equal(one.advantages_n, other.advantages_n)


def test_a_fragmented_rollout_keeps_its_share_of_the_step() -> None:
    whole = make_row(list(range(1, 9)), make_span(1, [-1.0] * 3), make_span(5, [-1.0] * 3))
    parts = [
        make_row(list(range(1, 5)), make_span(1, [-1.0] * 3)),
        make_row(list(range(1, 9)), make_span(5, [-1.0] * 3)),
    ]
    other = make_row([1, 2, 3], make_span(1, [-1.0, -1.0]))
    for rows in ([whole], parts):
        batch = collate(weigh([make_sample(0, *rows), make_sample(1, other)], rollout_mean))
        of_first = batch.weights_n[(batch.weights_n - 1 / 12).abs() < 1e-6]
        assert len(of_first) == 6
        assert of_first.sum().item() == pytest.approx(0.5)
        # The row-count mistake would give every row a third once the rollout is cut in two.
        assert batch.weights_n.sum().item() == pytest.approx(1.0)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(1, 200), st.booleans())
def test_portions_keep_the_budget_and_lose_nothing(lengths: list[int], budget: int, packed: bool) -> None:
    samples = [
        make_sample(index, make_row([1] * length, make_span(1, [-1.0])))
        for index, length in enumerate(lengths)
    ]
    rows = weigh(samples, rollout_mean)
    portions = list(split(rows, budget, packed=packed))
    assert [row for portion in portions for row in portion] == rows
    for portion in portions:
        size = collate(portion, packed=packed).token_ids_bt.numel()
        assert size <= budget or len(portion) == 1


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(1, 9))
def test_shares_are_even_and_lose_nothing(lengths: list[int], ranks: int) -> None:
    samples = [
        make_sample(index, make_row([1] * length, make_span(1, [-1.0])))
        for index, length in enumerate(lengths)
    ]
    rows = weigh(samples, rollout_mean)
    shares = share_out(rows, ranks)
    assert len(shares) == ranks
    assert sorted(map(id, (row for share in shares for row in share))) == sorted(map(id, rows))
    tokens = [sum(len(row.row.token_ids) for row in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)
    for share in shares:
        assert share == sorted(share, key=lambda row: len(row.row.token_ids), reverse=True)


def test_shares_by_hand() -> None:
    rows = weigh(
        [
            make_sample(index, make_row([1] * length, make_span(1, [-1.0])))
            for index, length in enumerate([5, 8, 3, 7])
        ],
        rollout_mean,
    )
    lengths = [[len(row.row.token_ids) for row in share] for share in share_out(rows, 2)]
    assert lengths == [[8, 3], [7, 5]]


def test_an_idle_pass_counts_nothing() -> None:
    batch = idle()
    assert batch.idle
    assert batch.weights_n.tolist() == [0.0]
    assert batch.targets_n.tolist() == [0]
