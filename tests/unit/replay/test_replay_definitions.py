"""What a replay scores and credits with, and what is refused before anything is read."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from leyden_platform.messaging import Partition, Record
from leyden_platform.testing.rollouts import Rollout, make_trajectory
from leyden_replay.definitions import Changes, UnknownReward, definitions, source_digest
from leyden_replay.roster import NameTaken, RewardChange, Roster, Selection
from leyden_replay.stream import BadName, restamped, topics_of
from leyden_schemas import RewardSpec, Topics, Trajectory, encode


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that sets nothing."""
    for name in ("LEYDEN_CATALOGUE_REWARDS", "LEYDEN_CATALOGUE_PATH", "LEYDEN_CREDIT_ESTIMATOR"):
        monkeypatch.delenv(name, raising=False)


def test_without_changes_it_is_the_services_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_REWARD_AIR_CAP", "0.5")
    monkeypatch.setenv("LEYDEN_CREDIT_ESTIMATOR", "rloo")
    monkeypatch.setenv("LEYDEN_CREDIT_ESTIMATORS", '{"player": "rae"}')
    found = definitions(Changes())
    assert (found.reward.air_cap, found.credit.estimator, found.change) == (0.5, "rloo", None)
    assert found.credit.estimators == {"player": "rae"}
    assert found.text["reward"] == "each task's own"


def test_changes_go_before_the_services_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CREDIT_ESTIMATORS", '{"player": "rae"}')
    found = definitions(
        Changes(
            estimator={"name": "gigpo", "w": 0.5},
            air_cap=0.1,
            air_weights={},
            air_weight=0.0,
            reward="exact_match",
        )
    )
    assert found.credit.estimator == {"name": "gigpo", "w": 0.5}
    assert found.credit.estimators == {}
    assert (found.reward.air_cap, found.credit.air_weight) == (0.1, 0.0)
    assert found.change == RewardChange("exact_match")


@pytest.mark.parametrize("reward", ["judge", "regex", "code:score"])
def test_a_reward_that_does_not_suit_sessions_may_suit_tasks(reward: str) -> None:
    found = definitions(Changes(reward=reward))
    assert found.reward.sessions.session_reward.name == reward


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (Changes(reward="nothing"), "there are .*exact_match.* and yours as module:function"),
        (Changes(reward="numeric", params={"tolerence": 1}), "tolerance"),
        (Changes(params={"tolerance": 1}), "those of --reward"),
    ],
)
def test_rewards_that_are_none(changes: Changes, said: str) -> None:
    with pytest.raises(UnknownReward, match=said):
        definitions(changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (Changes(estimator="groop"), "no estimator is named 'groop'"),
        (Changes(estimator={"name": "gigpo", "v": 1}), "estimator gigpo"),
        (Changes(air_weights={"nonsense": 1.0}), "nonsense"),
        (Changes(air_cap=-1.0), "air_cap"),
    ],
)
def test_settings_that_no_service_would_start_with(changes: Changes, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        definitions(changes)


def test_params_are_the_tasks_own_where_they_mean_something() -> None:
    own = RewardSpec(name="numeric", params={"tolerance": 0.5})
    assert RewardChange("numeric").of(own).params == {"tolerance": 0.5}
    assert RewardChange("exact_match").of(own).params == {}
    assert RewardChange("a:b", own=True).of(own) == RewardSpec(name="a:b", params={"tolerance": 0.5})
    assert RewardChange("numeric", {}).of(own).params == {}


def test_the_digest_tells_definitions_apart_and_knows_the_functions_source(tmp_path: Path) -> None:
    module = tmp_path / "digested_rewards.py"
    module.write_text("def f(trajectory): return 1.0")
    changes = Changes(reward="digested_rewards:f", path=[tmp_path])
    first = definitions(changes).digest
    assert definitions(changes).digest == first
    module.write_text("def f(trajectory): return 2.0")
    assert definitions(changes).digest != first
    assert len({definitions(Changes(air_cap=cap)).digest for cap in (0.1, 0.2)}) == 2
    assert "digested_rewards" not in sys.modules


def test_how_a_replay_runs_is_no_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    before = definitions(Changes()).digest
    monkeypatch.setenv("LEYDEN_REWARD_WORKERS", "7")
    monkeypatch.setenv("LEYDEN_KAFKA_BOOTSTRAP", "elsewhere:9092")
    monkeypatch.setenv("LEYDEN_CREDIT_GROUP", "other")
    assert definitions(Changes()).digest == before


def test_sources_are_found_in_packages_without_importing(tmp_path: Path) -> None:
    package = tmp_path / "digested_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner.py").write_text("x = 1")
    assert source_digest("digested_package.inner:f", [str(tmp_path)]) != "unknown"
    assert source_digest("digested_package.other:f", [str(tmp_path)]) == "unknown"
    assert source_digest("no_such_module:f", []) == "unknown"


@pytest.mark.parametrize("name", ["", "-x", "a:b", "a/b", "x" * 101, "ä"])
def test_names_that_no_topic_can_have(name: str) -> None:
    with pytest.raises(BadName):
        topics_of(name)


def test_a_stream_has_topics_of_its_own_and_ids_of_its_own() -> None:
    assert [t.name for t in topics_of("week")] == ["leyden.trajectories.v1.week", "leyden.samples.v1.week"]
    trajectory = make_trajectory()
    identity, again = restamped(trajectory, "week")
    assert isinstance(again, Trajectory)
    assert (again.run, str(again.trajectory_id)) == ("week", identity)
    assert again.trajectory_id != trajectory.trajectory_id
    assert again.rollout_id == trajectory.rollout_id
    assert restamped(trajectory, "week")[0] == identity != restamped(trajectory, "day")[0]


def test_a_replay_cannot_be_named_like_the_run_it_goes_over() -> None:
    event = Rollout().started().model_copy(update={"run": "week"})
    record = Record(Partition(Topics.EVENTS.name, 0), 0, None, encode(event))
    chosen = Roster("again", Selection(), None).take(record, counts=True)
    assert chosen is not None
    assert chosen.record is record
    with pytest.raises(NameTaken, match="needs one of its own"):
        Roster("week", Selection(), None).take(record, counts=True)
    assert Roster("week", Selection(run="other"), None).take(record, counts=True) is None


def test_a_rollout_is_meant_or_not_from_its_first_event_on() -> None:
    rollout = Rollout()
    roster = Roster("again", Selection(policy="calculator"), None)
    place = Partition(Topics.EVENTS.name, 0)
    events = (rollout.started(), rollout.completion(policy="helper"), rollout.finished())
    taken = [roster.take(Record(place, n, None, encode(e)), counts=True) for n, e in enumerate(events)]
    assert all(taken)
    assert roster.cut_off(set()) == (0, 1)
    assert roster.cut_off({rollout.rollout_id}) == (0, 0)
