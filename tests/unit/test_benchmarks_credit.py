"""The arithmetic of the credit benchmark, its episodes and kept runs, and its command line at work."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from calculator import agent as calculator
from credit_bench.arms import ARMS, Arm
from credit_bench.campaign import Job, Kept, run_all
from credit_bench.effort import EFFORTS, Effort, Result
from credit_bench.environments import ENVIRONMENTS
from credit_bench.findings import (
    Finding,
    findings,
    grouped,
    mean_curve,
    measurements,
    reached,
    smoothed,
)
from credit_bench.report import said, write_json
from dispatch import agent as dispatch

from leyden_credit.estimators import chosen
from leyden_schemas import JsonObject, Split

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "credit.py"
EFFORT = Effort(waves=8, groups=2, samples=4, heldout=8)


def job(subject: str = "grpo", *, seed: int = 0, environment: str = "dispatch") -> Job:
    return Job(environment, subject, Arm("grpo", lr=1e-3), EFFORT, seed)


def result(*success: float) -> Result:
    return Result(success=list(success), calls=[8.0] * len(success), steps=8, heldout=0.5)


# --- arithmetic


def test_smoothing_looks_back_over_an_eighth_of_the_run() -> None:
    assert smoothed([0.0, 1.0] * 8) == [0.0, *[0.5] * 15]
    assert smoothed([0.25, 0.75]) == [0.25, 0.75]
    assert smoothed([]) == []


def test_curves_are_averaged_wave_by_wave() -> None:
    assert mean_curve([[0.0, 1.0], [1.0, 1.0]]) == [0.5, 1.0]


def test_a_target_is_reached_at_the_end_of_a_wave_and_not_before_a_whole_window() -> None:
    assert reached([0.0, 0.2, 0.5, 0.4], 0.5, 64) == 192
    assert reached([0.0, 0.2], 0.5, 64) is None
    early = [1.0, *[0.6] * 15]
    assert reached(early, 0.6, 10) == 20


def test_every_subject_is_compared_with_what_broadcast_ended_with() -> None:
    # Broadcast ends with (0.4 + 0.2) / 2 = 0.3. The other's mean curve is there at wave 3 of 8, its
    # first seed at wave 2 and its second never.
    runs = grouped(
        [
            (job(seed=0), result(*[0.0] * 7, 0.4)),
            (job(seed=1), result(*[0.0] * 7, 0.2)),
            (job("gigpo", seed=0), result(0.1, 0.3, 0.5, *[0.5] * 5)),
            (job("gigpo", seed=1), result(0.1, 0.1, 0.1, *[0.2] * 5)),
        ]
    )
    measured = {(m.subject, m.metric): m for m in measurements(runs)}
    assert measured["grpo", "success_final"].value == pytest.approx(30)
    assert measured["grpo", "success_final"].runs == pytest.approx((40, 20))
    assert measured["grpo", "rollouts_to_broadcast"].value == 64
    assert measured["gigpo", "rollouts_to_broadcast"].value == 24
    assert measured["gigpo", "rollouts_to_broadcast"].runs == (16, None)
    assert measured["gigpo", "share_of_broadcast"].value == 0.375
    assert measured["gigpo", "share_of_broadcast"].unit == "ratio"
    assert findings(list(measured.values())) == [Finding("dispatch", "gigpo", 0.375)]


def test_without_broadcast_nothing_is_compared() -> None:
    metrics = {m.metric for m in measurements(grouped([(job("gigpo"), result(0.5, 0.5))]))}
    assert "success_final" in metrics
    assert "share_of_broadcast" not in metrics


def test_the_best_step_level_arm_is_found_and_broadcast_with_air_is_none() -> None:
    rising = {"grpo+air": 1, "gigpo": 6, "gigpo+air": 3, "return_to_go+air": 8}
    runs = [(job(), result(*[0.0] * 7, 0.5))] + [
        (job(subject), result(*[0.0] * wave, *[0.5] * (8 - wave))) for subject, wave in rising.items()
    ]
    assert findings(measurements(grouped(runs))) == [Finding("dispatch", "gigpo+air", 0.5)]


@pytest.mark.parametrize(
    ("share", "met", "text"),
    [
        (0.5, True, "in 50% of the rollouts; the goal for the long task is 50%: goal met"),
        (0.51, False, "goal missed"),
        (None, False, "no step-level credit reached what broadcast ended with: goal missed"),
    ],
)
def test_the_goal_is_half_of_the_rollouts(share: float | None, met: bool, text: str) -> None:
    finding = Finding("dispatch", "gigpo", share)
    assert finding.met is met
    assert text in said(finding)


def test_numbers_are_written_as_a_list_of_records(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", measurements(grouped([(job(), result(0.5, 0.5))])))
    records = json.loads((tmp_path / "out.json").read_text())
    assert all(set(record) == {"subject", "case", "metric", "unit", "value", "runs"} for record in records)


# --- what is compared


def test_every_arm_names_an_estimator_and_all_have_the_same_rollouts() -> None:
    assert set(ARMS) == set(ENVIRONMENTS) == set(EFFORTS)
    for arms in ARMS.values():
        assert set(arms) >= {"grpo", "return_to_go+air", "gigpo"}
        for name, arm in arms.items():
            assert chosen(arm.estimator).label.startswith(name.removesuffix("+air"))
            assert (arm.air > 0) is name.endswith("+air")


def hear(environment: str, task: JsonObject, *messages: JsonObject) -> tuple[bool, str, list[str]]:
    episode = ENVIRONMENTS[environment].begin(task)
    for message in messages:
        assert not episode.over
        episode.hear(message)
    results = [message["content"] for message in episode.messages if message["role"] == "tool"]
    return episode.over, episode.output(episode), results


def call(name: str, **arguments: object) -> JsonObject:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}


def test_an_episode_ends_with_an_answer_or_when_the_parcel_is_out() -> None:
    three = call("calculator", a=1, op="+", b=2)
    said_three = {"role": "assistant", "content": "3"}
    assert hear("calculator", {"question": "1 + 2"}, three, said_three) == (True, "3", ["3"])
    assert hear("calculator", {"question": "1 + 2"}, *[three] * 6) == (True, "", ["3"] * 6)
    parcel = {"question": "Parcel 1\nhome\nsmall\npaper\ncustoms home", "desks": ["customs"]}
    assert hear("dispatch", parcel, call("send", lane=2)) == (True, "delivered", ["delivered"])
    assert hear("dispatch", parcel, said_three, said_three) == (False, "customs home", [])
    assert hear("dispatch", parcel, *[said_three] * 10) == (True, "customs home", [])


REPLIES = [
    call("send", lane=1),
    call("send", lane=2),
    {"role": "assistant", "content": "at customs"},
    call("send", lane=9),
    call("calculator", a=1, op="+", b=2),
    {"role": "assistant", "content": "3"},
]


@pytest.mark.parametrize(("name", "agent"), [("calculator", calculator), ("dispatch", dispatch)])
def test_an_episode_says_what_the_agent_says(
    name: str, agent: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loops of the examples are written twice: both are given the same answers."""
    asked: list[list[JsonObject]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["messages"])
        choice = {"index": 0, "message": REPLIES[(len(asked) - 1) % len(REPLIES)], "finish_reason": "stop"}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return httpx.Response(200, json=body)

    monkeypatch.setattr(agent, "HTTP", httpx.Client(transport=httpx.MockTransport(answer)))
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    task = {"question": "Parcel 1\nhome\nsmall\npaper\ncustoms home", "desks": ["customs", "scale", "labels"]}
    output = agent.solve(task)
    episode = ENVIRONMENTS[name].begin(task)
    for turn, messages in enumerate(asked):
        assert not episode.over
        assert episode.messages == messages
        episode.hear(REPLIES[turn % len(REPLIES)])
    assert episode.over
    assert episode.output(episode) == output


def test_tasks_are_messages_with_ids_of_their_own_and_held_out_ones_are_evaluations() -> None:
    for environment in ENVIRONMENTS.values():
        tasks = environment.tasks(5, split=Split.EVAL, seed=1, samples=2)
        assert len({task.task_id for task in tasks}) == 5
        assert {(task.split, task.samples, task.policy) for task in tasks} == {
            (Split.EVAL, 2, environment.name)
        }


# --- runs


def test_a_kept_run_is_not_made_again_and_another_setting_is_another_run(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept.json")
    kept.add(job(), result(0.5))
    again = Kept(tmp_path / "kept.json")
    assert again.get(job()) == result(0.5)
    assert again.get(job(seed=1)) is None
    assert again.get(replace(job(), arm=Arm("grpo", lr=2e-3))) is None
    made = run_all([job()], again, processes=1, report=lambda *_: pytest.fail("it was kept"))
    assert made == [(job(), result(0.5))]


@pytest.mark.timeout(600)
def test_the_benchmark_runs_in_seconds_when_asked_to(tmp_path: Path) -> None:
    """Several estimators, on the services' own parts, in a process of their own."""
    pytest.importorskip("torch")
    command = [sys.executable, str(PROGRAM), "--quick", "--cache", str(tmp_path / "kept.json"), "--jobs", "1"]
    command += ["--environments", "dispatch", "--subjects", "grpo,return_to_go+air,gigpo+air"]
    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "out.json").read_text())
    assert {r["subject"] for r in records} == {"grpo", "return_to_go+air", "gigpo+air"}
    steps = {r["subject"]: r["value"] for r in records if r["metric"] == "learner_steps"}
    assert steps["return_to_go+air"] == steps["gigpo+air"] == 2
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_subject_nobody_knows_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--subjects", "ppo"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert "known are grpo, grpo+air, return_to_go+air," in done.stderr
