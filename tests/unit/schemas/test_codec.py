"""Messages survive the wire, and bytes that are no message are refused with the field and the reason."""

import contextlib
import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden_platform.testing.rollouts import Rollout, make_step, make_trajectory
from leyden_schemas import DeadLetter, MalformedMessage, PromptBase, Sampling, Task, Topics, decode, encode
from leyden_schemas.codec import ADAPTERS

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
MINIMAL: dict[str, Any] = {"input": {"question": "1 + 1"}, "policy": "calculator"}


@given(
    task_input=st.dictionaries(st.text(), JSON, max_size=3),
    reference=JSON,
    samples=st.integers(1, 256),
    temperature=st.floats(0, 2),
)
def test_tasks_round_trip(
    task_input: dict[str, Any], reference: Any, samples: int, temperature: float
) -> None:
    task = Task(
        task_id="t",
        input=task_input,
        reference=reference,
        policy="calculator@3",
        samples=samples,
        sampling=Sampling(temperature=temperature),
    )
    assert decode(Topics.TASKS, encode(task)) == task


def test_a_producer_needs_only_input_and_policy() -> None:
    task = decode("leyden.tasks.v1.some-queue", json.dumps(MINIMAL).encode())
    assert (task.samples, task.agent, task.tenant, task.run, task.reward.name) == (
        1,
        "default",
        "default",
        "default",
        "exact_match",
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"smaples": 3}, "smaples: Extra inputs are not permitted"),
        ({"samples": 0}, "samples: Input should be greater than or equal to 1"),
        ({"samples": 10_000}, "samples: Input should be less than or equal to 256"),
        ({"samples": "many"}, "samples: Input should be a valid integer"),
        ({"input": "text"}, "input: Input should be an object"),
        ({"policy": "calculator@best"}, "policy: Value error, policy 'calculator@best'"),
        ({"limits": {"timeout_s": 0}}, "limits.timeout_s"),
        ({"reward": {"name": "x", "wieght": 1}}, "reward.wieght"),
        ({"split": "test"}, "split: Input should be 'train' or 'eval'"),
    ],
)
def test_a_bad_task_names_the_field(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode(Topics.TASKS, json.dumps(MINIMAL | change).encode())
    assert complaint in str(caught.value)


@given(st.binary(max_size=200), st.sampled_from(sorted(ADAPTERS)))
def test_no_bytes_raise_anything_else(value: bytes, topic: str) -> None:
    with contextlib.suppress(MalformedMessage):
        decode(topic, value)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_has_no_date_for_is_malformed(time: str) -> None:
    event = Rollout().finished().to_json().replace(b"2026-01-01T00:00:01Z", time.encode())
    with pytest.raises(MalformedMessage, match=r"occurred_at: .*outside the calendar"):
        decode(Topics.EVENTS, event)


def test_a_step_that_has_the_id_of_another_is_read_all_the_same() -> None:
    """The reward service writes no such trajectory."""
    first = make_step([1, 2, 3], [4])
    again = make_step([9], completion_id=first.completion_id, base=PromptBase(completion_id=uuid4()))
    third = make_step([5], base=PromptBase(completion_id=first.completion_id, tokens=4))
    read = decode(Topics.TRAJECTORIES, encode(make_trajectory(steps=[first, again, third])))
    assert [step.untrainable for step in read.steps] == [None, "base_unknown", "base_unknown"]
    assert read.steps[0].prompt_token_ids == [1, 2, 3]


def test_a_tombstone_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="tombstone"):
        decode(Topics.TASKS, None)


def test_an_unknown_topic_is_a_programming_error() -> None:
    with pytest.raises(KeyError, match="not a Leyden topic"):
        decode("other", b"{}")


def test_newer_events_with_more_fields_are_readable() -> None:
    body = {
        "type": "alias_moved",
        "event_id": "00000000-0000-4000-8000-000000000000",
        "policy": "p",
        "version": 1,
        "alias": "serving",
        "occurred_at": "2026-01-01T00:00:00Z",
        "a_field_of_the_future": 1,
    }
    assert decode(Topics.MODELS, json.dumps(body).encode()).key() == "p#serving"


def test_dead_letters_keep_any_bytes() -> None:
    letter = DeadLetter.model_validate(
        {
            "dead_letter_id": "00000000-0000-4000-8000-000000000000",
            "source_topic": "t",
            "source_partition": 0,
            "source_offset": 1,
            "value": "/wA=",
            "size": 2,
            "consumer": "c",
            "reason": "malformed",
            "error": "e",
            "failed_at": "2026-01-01T00:00:00Z",
        }
    )
    assert letter.value == b"\xff\x00"
    assert decode(Topics.DEADLETTERS, encode(letter)) == letter
