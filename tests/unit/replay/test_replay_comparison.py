"""What a comparison says, by hand, and how it is shown."""

import json
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import make_step, make_trajectory
from leyden_replay import facts, report
from leyden_replay.comparison import Comparison, Told, compare
from leyden_replay.facts import Credited, Scored
from leyden_replay.statistics import distribution, group_order, rank_correlation, ranks
from leyden_replay.summary import Counts, Edges, Summary, grown
from leyden_replay.tables import headline, tables
from leyden_schemas import RewardTerm, TokenRow, TokenSpan, TrainingSample, TrajectoryStatus, encode

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


def test_a_distribution_by_hand() -> None:
    found = distribution([4.0, 1.0, 2.0, 3.0, 10.0])
    assert found is not None
    assert (found.count, found.mean, found.minimum, found.median, found.maximum) == (5, 4.0, 1.0, 3.0, 10.0)
    assert found.std == pytest.approx(12.5**0.5)
    assert found.p10 == pytest.approx(1.4)
    assert found.p90 == pytest.approx(7.6)
    assert distribution([]) is None
    assert distribution([2.0]) is not None


def test_equal_numbers_share_their_mean_rank() -> None:
    assert ranks([10.0, 20.0, 20.0, 5.0]) == [2.0, 3.5, 3.5, 1.0]


def test_what_rounding_tells_apart_is_equal() -> None:
    assert ranks([0.1 + 0.2, 1.0, 0.3]) == [1.5, 3.0, 1.5]
    assert rank_correlation([0.3, 0.3, 1.0], [0.1 + 0.2, 0.3, 1.0]) == pytest.approx(1.0)
    assert rank_correlation([0.3, 0.3], [0.1 + 0.2, 0.3]) is None


def test_rank_correlation_by_hand() -> None:
    # d = 1, 1, 0, 0: rho = 1 - 6 * 2 / (4 * 15)
    assert rank_correlation([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(0.8)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 1], [1, 2]) is None
    assert rank_correlation([1], [2]) is None
    assert rank_correlation([], []) is None


@given(NUMBERS)
def test_what_keeps_the_order_correlates_fully(values: list[float]) -> None:
    rho = rank_correlation(values, [2 * value + 1 for value in ranks(values)])
    assert rho is None if len(set(values)) == 1 else rho == pytest.approx(1.0)


def test_pairs_within_groups() -> None:
    order = group_order(
        [[(0.0, 0.0), (1.0, 2.0), (1.0, 3.0)], [(0.0, 1.0), (1.0, 0.0)], [(0.0, 5.0), (1.0, 5.0)]]
    )
    assert (order.kept, order.reversed, order.newly_told_apart, order.newly_equal) == (2, 1, 1, 1)


def scored(final: float | None, group: int = 1, reason: str = "") -> Scored:
    """A rollout worth this much, or excluded."""
    return Scored(UUID(int=group), "t", 0, 0, final, 0.0 if final is not None else None, reason, "", "f")


def uuid(number: int) -> UUID:
    """A rollout's id."""
    return UUID(int=number)


def sides() -> Comparison:
    """Five rollouts: one up, one down, one equal, one excluded now, one that is new."""
    before = {uuid(n): scored(value) for n, value in ((1, 0.0), (2, 1.0), (3, 0.5), (4, 1.0))}
    after = {uuid(1): scored(0.9), uuid(2): scored(0.8), uuid(3): scored(0.5), uuid(5): scored(1.0)}
    after[uuid(4)] = scored(None, reason="reward_raised")
    old = {uuid(n): Credited("grpo", 0.1 * n, bytes([n])) for n in (1, 2, 4)}
    new = {
        uuid(1): Credited("grpo", 0.1, b"\1"),
        uuid(2): Credited("rloo", 0.9, b"x"),
        uuid(3): Credited("rloo", 0, b"y"),
    }
    return compare(Told(before, old), Told(after, new))


def test_rollouts_are_compared_one_by_one() -> None:
    found = sides()
    assert (found.rollouts, found.without_before) == (5, 1)
    final, _, advantage = found.measures
    assert (final.compared, final.up, final.down, final.equal) == (3, 1, 1, 1)
    assert final.mean_change == pytest.approx(0.7 / 3)
    assert [mover.rollout_id for mover in found.movers] == [uuid(1), uuid(2)]
    assert [mover.change for mover in found.movers] == pytest.approx([0.9, -0.2])
    assert found.statuses == {"scored -> scored": 3, "scored -> excluded (reward_raised)": 1}
    assert found.samples.model_dump() == {"identical": 1, "different": 1, "only_before": 1, "only_after": 1}
    assert (advantage.compared, advantage.up, advantage.equal) == (2, 1, 1)


def test_a_trajectory_is_read_at_a_glance() -> None:
    trajectory = make_trajectory(
        0.5,
        [make_step(air=0.25), make_step(air=-0.5)],
        final=[RewardTerm(name="a", value=2.0, weight=0.5), RewardTerm(name="b", value=1.0)],
        scored_by="f#1",
    )
    rollout_id, told = facts.scored(encode(trajectory))
    assert rollout_id == trajectory.rollout_id
    assert (told.final, told.air, told.task_id, told.by, told.reason) == (2.0, -0.25, "2+2", "f#1", "")
    lost = trajectory.model_copy(update={"status": TrajectoryStatus.EXCLUDED, "excluded_reason": "deadline"})
    _, told = facts.scored(encode(lost))
    assert (told.final, told.air, told.reason) == (None, None, "deadline")


def test_a_samples_advantage_is_the_mean_over_its_tokens() -> None:
    spans = [
        TokenSpan(start=1, logprobs=[-1.0], advantage=4.0, version=0, completion_id=uuid(1)),
        TokenSpan(start=2, logprobs=[-1.0] * 3, advantage=0.0, version=0, completion_id=uuid(2)),
    ]
    trajectory = make_trajectory()
    sample = TrainingSample(
        sample_id=uuid(9),
        rollout_id=trajectory.rollout_id,
        group_id=uuid(1),
        policy="p",
        rows=[TokenRow(token_ids=[1, 2, 3, 4, 5], spans=spans)],
        reward=1.0,
        estimator="grpo",
        group_size=2,
        created_at=trajectory.finished_at,
    )
    rollout_id, told = facts.credited(encode(sample))
    assert (rollout_id, told.estimator, told.advantage) == (trajectory.rollout_id, "grpo", 1.0)
    again = facts.credited(encode(sample.model_copy(update={"reward": 2.0})))[1]
    assert told.digest != again.digest


def summary(comparison: Comparison | None) -> Summary:
    """A replay's."""
    return Summary(
        name="week",
        dry_run=False,
        definitions={"reward": "<b>numeric</b>"},
        digest="d",
        scored_by={"numeric": 4},
        estimators={"rloo": 3},
        edges=Edges(since="-7d", until="end", reads_from=None, counts_from=None, lead_in_cut=False),
        counts=Counts(events=20, rollouts=5, samples=3, began_before=2, excluded={"reward_raised": 1}),
        dropped={"credit_groups_dropped (zero_variance)": 2},
        examples={"reward_raised": "f raised ValueError"},
        comparison=comparison,
    )


def test_the_report_says_all_of_it_as_json_picture_and_page(tmp_path: Path) -> None:
    told = summary(sides())
    files = report.write(told, tmp_path)
    assert [file.name for file in files] == ["replay.json", "rewards.png", "report.html"]
    found = json.loads(files[0].read_text())
    assert found["comparison"]["movers"][0]["rollout_id"] == str(uuid(1))
    assert files[1].read_bytes().startswith(b"\x89PNG")
    page = files[2].read_text()
    for text in (
        "data:image/png;base64,",
        str(uuid(1)),
        "f raised ValueError",
        "zero_variance",
        "began before",
    ):
        assert text in page
    assert "<b>numeric" not in page


@pytest.mark.parametrize(
    ("before", "after"), [(1.0, 1.0), (0.1 + 0.2, 0.3), (1e6, 1e6 + 1e-10), (0.0, 0.0), (1e300, -1e300)]
)
def test_constant_rewards_are_drawn_too(before: float, after: float, tmp_path: Path) -> None:
    was, now = ({uuid(n): scored(value) for n in range(3)} for value in (before, after))
    files = report.write(summary(compare(Told(was, {}), Told(now, {}))), tmp_path)
    assert [file.name for file in files] == ["replay.json", "rewards.png", "report.html"]


def test_without_live_rewards_there_is_a_report_without_a_picture(tmp_path: Path) -> None:
    files = report.write(summary(None), tmp_path)
    assert [file.name for file in files] == ["replay.json", "report.html"]
    assert "no live rewards to compare with" in headline(summary(None))


def test_tables_leave_out_what_is_empty() -> None:
    titles = [table.title for table in tables(summary(sides()))]
    assert titles[0] == "Before (live) and after (replay)"
    assert {"Distributions", "Order within groups"} <= set(titles)
    assert {"Biggest movers", "Training samples", "Excluded by the replay"} <= set(titles)
    assert tables(summary(None))[0].title == "Counts"
    assert all(len(row) == len(table.columns) for table in tables(summary(sides())) for row in table.rows)


def test_the_same_again_is_said_in_one_sentence() -> None:
    one = Told({uuid(1): scored(1.0)}, {uuid(1): Credited("grpo", 0.5, b"x")})
    assert "bit for bit" in headline(summary(compare(one, one)))
    assert "1 up and 1 down" in headline(summary(sides()))


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(report.ReportFailed, match="choose --reports"):
        report.prepare(tmp_path / "file" / "folder")


def test_growth_is_told_without_the_products_name() -> None:
    assert grown({"leyden_a": 1.0}, {"leyden_a": 3.0, "leyden_b (x)": 1.0, "leyden_c": 0.0}) == {
        "a": 2,
        "b (x)": 1,
    }
