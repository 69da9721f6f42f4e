"""What a batch is made of, and which bound holds a token, by hand-worked values."""

import pytest
import torch
from torch import tensor

from leyden_learner.measurements import Tally, describe
from leyden_learner.objective import Terms
from leyden_learner.pacing import room
from leyden_learner.testing import make_row, make_sample, make_span

CUT = make_span(1, [-1.0, -1.0], advantage=2.0, version=3).model_copy(update={"truncated": True})
BATCH = [
    make_sample(0, make_row([1] * 9, CUT, make_span(4, [-1.0] * 5, advantage=0.0, version=1)), reward=1.0),
    make_sample(1, make_row([1] * 4, make_span(1, [-1.0], advantage=-1.0, version=4)), reward=0.0),
]


def test_a_batch_is_described() -> None:
    measured = describe(BATCH, version=4)
    assert measured == pytest.approx(
        {
            "rollouts": 2,
            "groups": 1,
            "rows": 2,
            "sampled_tokens": 8,
            "reward_mean": 0.5,
            "reward_std": 0.5,
            "advantage_mean": 3 / 8,
            "advantage_std": ((2 * 1.625**2 + 5 * 0.375**2 + 1.375**2) / 8) ** 0.5,
            "advantage_max": 2,
            "zero_advantage_share": 5 / 8,
            "staleness_mean": (2 * 1 + 5 * 3 + 1 * 0) / 8,
            "completion_length_mean": 8 / 3,
            "completion_length_max": 5,
            "truncated_share": 1 / 3,
        }
    )


def terms(clipped: torch.Tensor, bounded: torch.Tensor | None = None) -> Terms:
    """Four tokens with ratios on both sides of 1."""
    ones = torch.ones(4)
    return Terms(tensor(0.5), tensor([0.5, 0.9, 1.1, 2.0]), clipped, ones, ones, ones, bounded)


def test_held_tokens_are_counted_by_the_bound_that_holds_them() -> None:
    """The bounded ratios count, not those to the sampler, which lie on the other side for two of them."""
    tally, bounded = Tally(), tensor([1.5, 0.9, 0.5, 1.4])
    tally.add(terms(tensor([True, False, True, True]), bounded), torch.ones(4), torch.zeros(4))
    means = tally.means()
    assert (means["clip_fraction"], means["clip_low_fraction"], means["clip_high_fraction"]) == (
        0.75,
        0.25,
        0.5,
    )


def test_a_backend_that_tells_only_the_share_has_no_bounds() -> None:
    tally = Tally()
    tally.add(terms(torch.full((4,), 0.25)), torch.ones(4), torch.zeros(4))
    assert tally.means()["clip_fraction"] == 0.25
    assert "clip_low_fraction" not in tally.means()


def test_room_is_what_may_be_under_way_without_going_stale() -> None:
    assert room(staleness=4, step_rollouts=96, backlog=0) == 480
    assert room(staleness=4, step_rollouts=96, backlog=400) == 80
    assert room(staleness=0, step_rollouts=96, backlog=400) == 0
