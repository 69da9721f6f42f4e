"""Which reward a task gets, compositions, and the refusals that say what a reward takes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from leyden_platform.settings import CatalogueSettings
from leyden_platform.testing.rollouts import make_task, make_trajectory
from leyden_reward.rewards.grading import Grader, rankings_in
from leyden_reward.rewards.library import IN_WORKERS, QUICK
from leyden_reward.rewards.verdict import Graded, Reason, Refused, Verdict
from leyden_reward.rewards.workers import RewardWorkers
from leyden_schemas import RewardSpec, RewardTerm, Trajectory
from leyden_schemas.rewards import LIBRARY, leaves

REFUSING = "refusing"


class OwnFunctions:
    """The user's: ``half`` is worth 0.5 in two terms, ``refusing`` cannot tell."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in ("half", REFUSING)

    async def grade(self, name: str, trajectory: Trajectory) -> Verdict:
        assert trajectory.task.reward.name == name
        self.asked.append(name)
        if name == REFUSING:
            return Refused(Reason.TIMED_OUT, "it ran over 1 s")
        terms = (RewardTerm(name="reward", value=0.75, feedback="good"), RewardTerm(name="cost", value=-0.25))
        return Graded(terms, "own:half")


def of(output: Any = "4", reference: Any = "4", *, name: str, **params: Any) -> Trajectory:
    """A trajectory under a reward."""
    task = make_task(reference=reference, reward=RewardSpec(name=name, params=params))
    return make_trajectory(task=task, output=output, final=[])


async def grade(name: str, own: OwnFunctions | None = None, **params: Any) -> Verdict:
    """The verdict on a right answer."""
    return await Grader(own or OwnFunctions()).grade(of(name=name, **params))


def terms(judged: Verdict) -> dict[str, float]:
    """Terms by name, as they count."""
    assert isinstance(judged, Graded), judged
    return {term.name: term.weighted for term in judged.terms}


EXACT, HALF, WRONG = {"name": "exact_match"}, {"name": "half"}, {"name": "regex", "params": {"pattern": "5"}}
LONG = {"name": "overlong", "params": {"max_tokens": 1}}


async def test_a_sum_keeps_its_parts_apart() -> None:
    judged = await grade("weighted", of=[EXACT | {"weight": 0.5}, HALF | {"weight": 2, "label": "style"}])
    assert terms(judged) == {"exact_match": 0.5, "style": 1.5, "style.cost": -0.5}
    assert isinstance(judged, Graded)
    assert judged.by == "weighted(exact_match, own:half)"
    assert judged.terms[1].feedback == "good"


async def test_a_gate_lets_pass_or_not() -> None:
    own = OwnFunctions()
    assert terms(await grade("gated", own, gate=EXACT, then=HALF)) == {"reward": 0.75, "cost": -0.25}
    assert own.asked == ["half"]
    closed = await grade("gated", own, gate=HALF, then={"name": REFUSING}, at_least=0.6, otherwise=-1)
    assert terms(closed) == {"gate": -1.0}
    assert isinstance(closed, Graded)
    assert closed.terms[0].feedback == "reward: good"
    assert own.asked == ["half", "half"]


async def test_a_gate_opens_for_parts_that_add_up_to_it_but_for_rounding() -> None:
    assert 0.6 + 0.3 + 0.1 < 1.0
    parts = [EXACT | {"label": str(n), "weight": weight} for n, weight in enumerate((0.6, 0.3, 0.1))]
    whole = {"name": "weighted", "params": {"of": parts}}
    assert terms(await grade("gated", gate=whole, then=EXACT)) == {"reward": 1.0}


async def test_a_clip_bounds_the_sum() -> None:
    assert terms(await grade("clipped", of=HALF, low=0, high=0.25)) == {"clipped": 0.25}
    assert terms(await grade("clipped", of=HALF, low=0.75, high=1)) == {"clipped": 0.75}
    assert terms(await grade("clipped", of=HALF, low=0, high=1)) == {"clipped": 0.5}


async def test_compositions_nest() -> None:
    inner = {"name": "clipped", "params": {"of": HALF, "low": 0, "high": 0.25}}
    gated = {"name": "gated", "params": {"gate": EXACT, "then": inner}}
    judged = await grade("weighted", of=[gated | {"weight": 4}, LONG | {"weight": 0.1}])
    assert terms(judged) == {"gated.clipped": 1.0, "overlong": pytest.approx(-0.1)}


async def test_a_part_that_cannot_be_told_makes_the_whole_so() -> None:
    for params in (
        {"name": "weighted", "of": [EXACT, {"name": REFUSING}]},
        {"name": "gated", "gate": {"name": REFUSING}, "then": EXACT},
        {"name": "gated", "gate": EXACT, "then": {"name": REFUSING}},
        {"name": "clipped", "of": {"name": REFUSING}, "low": 0, "high": 1},
    ):
        judged = await grade(**params)
        assert judged == Refused(Reason.TIMED_OUT, "it ran over 1 s")


@pytest.mark.parametrize(
    ("name", "params", "reason", "text"),
    [
        (
            "vibes",
            {},
            Reason.UNKNOWN,
            "reward 'vibes' is not known; add it to LEYDEN_CATALOGUE_REWARDS or use",
        ),
        (
            "numeric",
            {"tolerence": 1},
            Reason.PARAMS,
            "tolerence: Extra inputs are not permitted. It takes tolerance,",
        ),
        ("numeric", {"tolerance": "x"}, Reason.PARAMS, "tolerance: Input should be a valid number"),
        (
            "numeric",
            {"tolerance": -1},
            Reason.PARAMS,
            "tolerance: Input should be greater than or equal to 0",
        ),
        ("token_f1", {"x": 1}, Reason.PARAMS, "It takes none"),
        ("json_schema", {"shema": {}}, Reason.PARAMS, "It takes schema"),
        ("overlong", {}, Reason.PARAMS, "max_tokens: Field required"),
        ("overlong", {"max_tokens": 4, "buffer": 5}, Reason.PARAMS, "params: buffer is at most max_tokens"),
        ("sql", {}, Reason.PARAMS, "give either database, a name of LEYDEN_REWARD_DATABASES, or setup, SQL"),
        (
            "sql",
            {"database": "/etc/passwd"},
            Reason.PARAMS,
            "known databases: none (LEYDEN_REWARD_DATABASES)",
        ),
        ("weighted", {"of": []}, Reason.PARAMS, "of: List should have at least 1 item"),
        ("weighted", {"of": [EXACT, EXACT]}, Reason.PARAMS, "parts have to differ in name or label"),
        ("weighted", {"of": [{"name": "vibes"}]}, Reason.UNKNOWN, "reward 'vibes' is not known"),
        ("clipped", {"of": EXACT, "low": 1, "high": 0}, Reason.PARAMS, "low is at most high"),
        ("gated", {"gate": EXACT}, Reason.PARAMS, "then: Field required"),
        ("numeric", {}, Reason.PARAMS, "the task's reference is 'four'"),
    ],
)
async def test_what_a_task_says_wrongly_is_refused_with_what_is_right(
    name: str, params: dict[str, Any], reason: Reason, text: str
) -> None:
    judged = await Grader(OwnFunctions()).grade(of(reference="four", name=name, **params))
    assert isinstance(judged, Refused)
    assert judged.reason is reason
    assert text in judged.text


def nested(levels: int) -> dict[str, Any]:
    """A clip in a clip in …"""
    spec: dict[str, Any] = EXACT
    for _ in range(levels):
        spec = {"name": "clipped", "params": {"of": spec, "low": 0, "high": 1}}
    return spec


def test_depth_is_bounded() -> None:
    assert [leaf.name for leaf in leaves(RewardSpec(**nested(7)))] == ["exact_match"]
    with pytest.raises(ValueError, match="nested deeper than 8"):
        list(leaves(RewardSpec(**nested(8))))


async def test_the_users_function_goes_before_the_librarys() -> None:
    class Mine(OwnFunctions):
        def __contains__(self, name: str) -> bool:
            return name == "numeric"

    assert terms(await grade("numeric", Mine(), anything="goes")) == {"reward": 0.75, "cost": -0.25}


async def test_a_sum_beyond_the_largest_reward_is_refused() -> None:
    judged = await grade("weighted", of=[EXACT | {"weight": 1e6}, HALF | {"weight": 1e6}])
    assert isinstance(judged, Refused)
    assert judged.reason is Reason.OUT_OF_RANGE


def test_every_reward_of_the_library_runs_somewhere() -> None:
    elsewhere = {"judge", "ruler", "python_tests", "weighted", "gated", "clipped", "feedback"}
    assert set(QUICK) | set(IN_WORKERS) | elsewhere == set(LIBRARY)


def test_relative_rewards_are_found_wherever_they_are() -> None:
    ruler = {"name": "ruler", "params": {"rubric": "brief"}}
    spec = RewardSpec(name="weighted", params={"of": [EXACT, ruler, ruler | {"label": "again"}]})
    assert rankings_in(spec, ()) == [RewardSpec(**ruler)]
    assert rankings_in(spec, {"ruler"}) == []
    assert rankings_in(RewardSpec(name="exact_match"), ()) == []
    assert rankings_in(RewardSpec(name="weighted", params={"of": [ruler, {"name": "vibes"}]}), ()) == []


@pytest.fixture
async def workers() -> AsyncIterator[RewardWorkers]:
    """Real workers, without functions of the user's."""
    workers = RewardWorkers(CatalogueSettings(path=[], rewards={}), count=1, deadline_s=2.0, memory_mb=2048)
    await workers.start()
    yield workers
    await workers.stop()


async def test_patterns_schemas_and_queries_run_in_workers(workers: RewardWorkers, tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    file.write_bytes(b"")
    grader = Grader(workers, databases={"shop": str(file)})
    assert terms(await grader.grade(of(name="regex", pattern="4"))) == {"reward": 1.0}
    assert terms(await grader.grade(of("{}", name="json_schema", schema={"type": "array"}))) == {
        "reward": 0.0
    }
    assert terms(await grader.grade(of("SELECT 4", "SELECT 2 + 2", name="sql", database="shop"))) == {
        "reward": 1.0
    }
    lost = await grader.grade(of("SELECT 4", "SELECT 4", name="sql", database="shops"))
    assert isinstance(lost, Refused)
    assert "known databases: shop" in lost.text
    endless = await grader.grade(of("a" * 40 + "!", name="regex", pattern="(a+)+$", full=True))
    assert isinstance(endless, Refused)
    assert endless.reason is Reason.TIMED_OUT
    right = {"name": "sql", "params": {"setup": "CREATE TABLE t (a);"}}
    judged = await grader.grade(of("SELECT a FROM t", "SELECT a FROM t", name="weighted", of=[right]))
    assert terms(judged) == {"sql": 1.0}
