"""Rules of the user's: run in processes, bounded, and harmless when they fail."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

import leyden
from leyden_platform.settings import CatalogueSettings
from leyden_platform.testing.rollouts import make_step, make_task, make_trajectory
from leyden_platform.testing.talks import Talk
from leyden_reward.air.own import OwnRules
from leyden_reward.air.own_worker import OwnRule, takes_the_trajectory
from leyden_reward.air.shaping import Shaping
from leyden_reward.decisions import Closed
from leyden_reward.rewards.grading import Grader
from leyden_reward.rewards.verdict import Reason, Refused
from leyden_reward.rewards.workers import CatalogueError, RewardWorkers
from leyden_reward.scoring import Scoring
from leyden_schemas import RewardSpec, Trajectory

USER_CODE = """
import math, os, sys, time
import leyden

@leyden.rule(weight=-0.05, at_most=2)
def shouts(turns):
    return [float(turn.text.isupper()) for turn in turns]

@leyden.rule(weight=0.1)
async def hits(turns, trajectory):
    return [float(trajectory.task.reference in turn.text) for turn in turns]

@leyden.rule(weight=1.0)
def raises(turns):
    raise KeyError("no such column")

@leyden.rule(weight=1.0, deadline_s=0.3)
def hangs(turns):
    time.sleep(60)

@leyden.rule(weight=1.0)
def leaves(turns):
    sys.exit(3)

@leyden.rule(weight=1.0)
def dies(turns):
    os._exit(7)

@leyden.rule(weight=1.0)
def too_few(turns):
    return [1.0]

@leyden.rule(weight=1.0)
def text(turns):
    return "many"

@leyden.rule(weight=1.0)
def words(turns):
    return ["a"] * len(turns)

@leyden.rule(weight=1.0)
def not_a_number(turns):
    return [math.nan] * len(turns)

@leyden.rule(weight=1.0)
def negative(turns):
    return [-1.0] * len(turns)

@leyden.rule(weight=1.0)
def huge(turns):
    return [10 ** 400] * len(turns)

def plain(turns):
    return [0.0] * len(turns)

def score(trajectory):
    return 0.0
"""
WORKING = {"shouts": OwnRule("shouts", -0.05, 2.0), "hits": OwnRule("hits", 0.1, 1.0)}
FAILING = {
    "raises": Reason.RAISED,
    "hangs": Reason.TIMED_OUT,
    "leaves": Reason.EXITED,
    "dies": Reason.EXITED,
    "too_few": Reason.WRONG_TYPE,
    "text": Reason.WRONG_TYPE,
    "words": Reason.WRONG_TYPE,
    "not_a_number": Reason.NOT_FINITE,
    "negative": Reason.OUT_OF_RANGE,
    "huge": Reason.NOT_FINITE,
}


def catalogue(folder: Path, *rules: str, rewards: dict[str, str] | None = None) -> CatalogueSettings:
    (folder / "user_rules.py").write_text(USER_CODE)
    named = {name: f"user_rules:{name}" for name in rules}
    return CatalogueSettings(path=[str(folder)], rules=named, rewards=rewards or {})


def shouting() -> Trajectory:
    """Three steps that shout, of which the second says the reference."""
    talk = Talk()
    for text in ("HELLO", "IT IS 4", "BYE"):
        talk.says(text)
    task = make_task(reference="4", reward=RewardSpec(name="shouts"))
    return make_trajectory(steps=talk.steps, task=task, final=[])


def alone(turns: object) -> None: ...
def option(turns: object, least: int = 5) -> None: ...
def wanted(turns: object, rollout: Trajectory) -> None: ...
def maybe(turns: object, trajectory: Trajectory | None = None) -> None: ...
def any_number(*given: object) -> None: ...
def by_name(turns: object, *, trajectory: Trajectory | None = None) -> None: ...


@pytest.mark.parametrize(
    ("rule", "takes"),
    [(alone, False), (option, False), (wanted, True), (maybe, True), (any_number, True), (by_name, False)],
)
def test_a_second_parameter_gets_the_trajectory_unless_it_is_an_option(
    rule: Callable[..., None], takes: bool
) -> None:
    assert takes_the_trajectory(rule) is takes


async def test_rules_are_measured_in_processes_and_bounded(tmp_path: Path) -> None:
    workers = RewardWorkers(catalogue(tmp_path, *WORKING, rewards={"shouts": "user_rules:score"}), count=1)
    await workers.start()
    try:
        assert workers.rules == WORKING
        own = OwnRules(workers)
        assert await own.measure(shouting()) == [
            (WORKING["hits"], [0.0, 1.0, 0.0]),
            (WORKING["shouts"], [1.0, 1.0, 1.0]),
        ]
        scoring = Scoring(Grader(workers), Shaping(cap=0.25, rules=[]), own_rules=own)
        scored = await scoring.score(Closed(0, shouting()))
    finally:
        await workers.stop()
    # A reward may be called like a rule. At most two shouts count.
    assert scored.reward == 0.0
    assert [step.reward for step in scored.steps] == pytest.approx([-0.05, 0.05, 0.0])
    names = [[term.name for term in step.terms] for step in scored.steps]
    assert names == [["shouts"], ["hits", "shouts"], []]


async def test_a_rule_that_is_turned_off_is_not_run(tmp_path: Path) -> None:
    workers = RewardWorkers(catalogue(tmp_path, *WORKING), count=1)
    await workers.start()
    try:
        own = OwnRules(workers, weights={"hits": 0.0})
        assert [rule.name for rule, _ in await own.measure(shouting())] == ["shouts"]
        assert await own.measure(make_trajectory(steps=[])) == []
    finally:
        await workers.stop()


def failed(rule: str, reason: Reason) -> float:
    labels = {"rule": rule, "reason": str(reason)}
    return REGISTRY.get_sample_value("leyden_reward_air_rules_failed_total", labels) or 0.0


async def test_a_rule_that_fails_contributes_nothing_and_is_counted(tmp_path: Path) -> None:
    before = {name: failed(name, reason) for name, reason in FAILING.items()}
    workers = RewardWorkers(catalogue(tmp_path, "shouts", *FAILING), count=2)
    await workers.start()
    try:
        trajectory = shouting()
        problems = {name: await workers.measure(name, trajectory) for name in FAILING}
        async with asyncio.timeout(60):
            measured = await OwnRules(workers).measure(trajectory)
    finally:
        await workers.stop()
    assert {name: one.reason for name, one in problems.items() if isinstance(one, Refused)} == FAILING
    assert [rule.name for rule, _ in measured] == ["shouts"]
    assert {name: failed(name, reason) - before[name] for name, reason in FAILING.items()} == dict.fromkeys(
        FAILING, 1.0
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "user_rules:plain",
            "plain: user_rules:plain: TypeError: not a rule; decorate the function with @leyden.rule",
        ),
        ("user_rules:missing", "has no attribute 'missing'"),
        ("no_such_module:rule", "No module named 'no_such_module'"),
    ],
)
async def test_what_is_no_rule_stops_the_service_at_start(tmp_path: Path, target: str, said: str) -> None:
    settings = catalogue(tmp_path).model_copy(update={"rules": {"plain": target}})
    with pytest.raises(CatalogueError, match=r"LEYDEN_CATALOGUE_") as told:
        await RewardWorkers(settings, count=1).start()
    assert said in str(told.value)


def test_a_decorated_rule_is_the_function_that_it_was() -> None:
    @leyden.rule(weight=-0.1, at_most=3)
    def empties(turns: list[leyden.Turn]) -> list[float]:
        return [float(not turn.text) for turn in turns]

    assert empties(leyden.turns([make_step(), *Talk().steps])) == [1.0]


def test_what_cannot_be_a_rule_is_said_when_it_is_imported() -> None:
    for weight in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight is"):
            leyden.rule(weight=weight)
    for at_most in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="at_most is"):
            leyden.rule(weight=1.0, at_most=at_most)
    with pytest.raises(ValueError, match="deadline_s is"):
        leyden.rule(weight=1.0, deadline_s=0.0)
    with pytest.raises(TypeError, match="yields"):

        @leyden.rule(weight=1.0)
        def generator(turns: object) -> object:
            yield 1.0

    with pytest.raises(TypeError, match="is called with the turns"):

        @leyden.rule(weight=1.0)
        def no_arguments() -> list[float]:
            return []
