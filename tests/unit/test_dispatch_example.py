"""The dispatch example: its tasks, its tool, its reward and what the seed model's files promise."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from calculator.make_seed import IGNORED, encode
from dispatch import agent, make_seed, reward, rules, tasks

from leyden import Call, Trajectory, Turn
from leyden_platform.conversation.values import Outcome as CallOutcome
from leyden_platform.conversation.values import Result
from leyden_schemas import Outcome, Task, cause_id

SEED = Path(agent.__file__).parent / "seed"
HOME, ABROAD = {"home", "small", "paper"}, {"abroad", "large", "glass"}


def send(lane: object) -> str:
    return json.dumps({"lane": lane})


# --- tasks


def test_a_parcel_has_one_split_whatever_the_seed() -> None:
    train = {task["question"] for seed in range(3) for task in tasks.generate(2000, split="train", seed=seed)}
    held_out = {
        task["question"] for seed in range(3) for task in tasks.generate(500, split="heldout", seed=seed)
    }
    assert len(train) > 5000
    assert not train & held_out
    assert {tasks.split_of(question) for question in held_out} == {"heldout"}


def test_tasks_repeat_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = (list(tasks.generate(50, split="train", seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_parcel_passes_every_desk_and_its_text_tells_three_facts_and_the_first_desk() -> None:
    for task in tasks.generate(100, split="heldout"):
        assert sorted(task["desks"]) == sorted(tasks.DESKS)
        facts = tasks.facts_of(task["question"])
        assert task["question"].splitlines()[-1] == tasks.shown(task["desks"][0], facts)
        assert [len(facts & set(pair)) for pair in tasks.FACTS.items()] == [1, 1, 1]


def test_asking_for_more_tasks_than_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        next(tasks.generate(10**6, split="train"))


def test_a_desk_has_two_lanes_and_looks_at_one_fact() -> None:
    every = [set(facts) for facts in product(*tasks.FACTS.items())]
    for desk, rule in tasks.DESKS.items():
        lanes = [tasks.right_lane(desk, facts) for facts in every]
        assert sorted(set(lanes)) == sorted({rule.lane, rule.other_lane})
        assert lanes.count(rule.lane) == 4


def test_a_desk_shows_the_one_fact_that_counts_there() -> None:
    assert tasks.shown("customs", ABROAD) == "customs abroad"
    assert tasks.shown("loading", HOME) == "loading small"


# --- the tool


def test_right_lanes_lead_from_desk_to_desk_and_out() -> None:
    house = agent.House("Parcel 1\nhome\nsmall\npaper\ncounter", ["counter", "customs", "labels"])
    desks = ["counter", "customs", "labels"]
    seen = [house.call_tool("send", send(tasks.right_lane(desk, HOME))) for desk in desks]
    assert seen == ["customs home", "labels home", "delivered"]
    assert house.left
    assert house.call_tool("send", send(1)) == "error: the parcel has left the house"


def test_a_strict_desk_refuses_and_another_leaves_a_note() -> None:
    desks = ["customs", "loading", "storage", "labels"]
    house = agent.House("Parcel 1\nabroad\nlarge\npaper\ncustoms", desks)
    assert house.call_tool("send", send(2)) == "error: refused at customs abroad"
    assert house.where == "customs abroad"
    assert house.call_tool("send", send(4)) == "loading large"
    assert house.call_tool("send", send(2)) == "storage paper, 1 note"
    assert house.call_tool("send", send(1)) == "labels abroad, 2 notes"
    assert house.call_tool("send", send(1)) == "error: refused at labels abroad, 2 notes"
    assert house.call_tool("send", send(2)) == "delivered, 2 notes"
    assert house.left


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fetch", send(1), "there is no tool 'fetch', only 'send'"),
        ("send", "{", "arguments must be JSON"),
        ("send", "[1]", "lane must be one of 1 2 3 4"),
        ("send", send(5), "lane must be one of 1 2 3 4"),
        ("send", send("1"), "lane must be one of 1 2 3 4"),
        ("send", send(True), "lane must be one of 1 2 3 4"),
    ],
)
def test_a_bad_call_gets_an_error_and_moves_nothing(name: str, arguments: str, message: str) -> None:
    house = agent.House("Parcel 1\nhome\nsmall\npaper\ncounter", ["counter"])
    assert house.call_tool(name, arguments) == f"error: {message}"
    assert house.where == "counter small"


@pytest.mark.parametrize(
    ("output", "worth"), [("delivered", 1.0), ("delivered, 1 note", 0.0), ("customs home", 0.0), (None, 0.0)]
)
def test_only_delivery_is_worth_something(output: str | None, worth: float) -> None:
    task = Task(task_id="t", input={}, policy="dispatch", reference=tasks.DELIVERED)
    an_id = cause_id("test")
    trajectory = Trajectory(
        trajectory_id=an_id,
        rollout_id=an_id,
        group_id=an_id,
        task=task,
        outcome=Outcome.SUCCEEDED,
        output=output,
        finished_at="2026-01-01T00:00:00Z",
    )
    assert reward.reward(trajectory) == worth


# --- the intermediate reward


def sent(seen: str | None) -> Turn:
    result = None if seen is None else Result(seen)
    call = Call("send", send(1), {"lane": 1}, ("send", send(1)), result)
    outcomes = () if call.worked is None else (CallOutcome("send", call.worked),)
    return Turn("main", answered=True, calls=(call,), outcomes=outcomes)


def test_a_step_that_was_refused_or_left_a_note_is_none_on_the_way() -> None:
    seen = ["scale large", "error: refused at scale large", "labels home, 1 note", "storage paper, 1 note"]
    assert rules.moved_on([sent(text) for text in [*seen, "customs home, 2 notes"]]) == [1, 0, 0, 1, 0]
    refused = [
        "labels home, 1 note",
        "error: refused at labels home, 1 note",
        "error: there is no tool 'x', only 'send'",
    ]
    assert rules.moved_on([sent(text) for text in refused]) == [0, 0, 0]


def test_a_step_of_unknown_outcome_and_one_without_a_call_earn_nothing() -> None:
    assert rules.moved_on([Turn("main", answered=True), sent(None), sent("customs home")]) == [0, 0, 1]


# --- the seed


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer() -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(SEED)


def test_a_prompt_begins_with_the_one_before_and_what_was_said(tokenizer: Any) -> None:
    messages = next(make_seed.transcripts(3))
    ends = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    before: list[int] = []
    for end in ends:
        text = tokenizer.apply_chat_template(
            messages[:end], tools=[agent.SEND], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer.encode(text)
        assert prompt[: len(before)] == before
        lane = json.loads(messages[end]["tool_calls"][0]["function"]["arguments"])["lane"]
        said = f'<tool_call>\n{{"name": "send", "arguments": {{"lane": {lane}}}}}\n</tool_call><|im_end|>'
        before = prompt + tokenizer.encode(said)


def test_only_what_the_assistant_says_is_taught(tokenizer: Any) -> None:
    messages = next(make_seed.transcripts(4))
    ids, labels = encode(tokenizer, make_seed.render(tokenizer, messages))
    taught = tokenizer.decode([label for label in labels if label != IGNORED])
    calls = sum(message["role"] == "assistant" for message in messages)
    assert taught.count("<tool_call>") == taught.count("<|im_end|>") == calls
    assert "counter" not in taught
    assert len(ids) == len(labels)


def test_the_seed_is_small_and_describes_itself() -> None:
    config = json.loads((SEED / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert (SEED / "model.safetensors").stat().st_size < 1_000_000
    sampling = json.loads((SEED / "generation_config.json").read_text())
    assert (sampling["temperature"], sampling["top_p"], sampling["top_k"]) == (1.0, 1.0, 0)
