"""Samples that cannot be trained on: each is dropped under a name of its own, and training goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from learner_harness import BATCH, World, train, worlds

from leyden_learner.testing import VOCABULARY, make_row, make_sample, make_span
from leyden_platform.settings import DatabaseSettings, KafkaSettings
from leyden_schemas import TrainingSample, encode

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]


@pytest.fixture
async def make_world(
    kafka: KafkaSettings, postgres_url: str, database: DatabaseSettings, tmp_path: Path
) -> Callable[[], World]:
    """Worlds of this test."""
    return await worlds(kafka, database, tmp_path)


@pytest.fixture
def world(make_world: Callable[[], World]) -> World:
    """A world of its own."""
    return make_world()


def spoilt(sample: TrainingSample, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A sample's bytes after a change that the schema refuses."""
    message = json.loads(encode(sample))
    change(message)
    return json.dumps(message).encode()


def longer_than_its_row(message: dict[str, Any]) -> None:
    """A span with more log-probabilities than its row has tokens."""
    message["rows"][0]["spans"][0]["logprobs"] = [-1.0] * 50


def without_logprobs(message: dict[str, Any]) -> None:
    """A span whose log-probabilities were never recorded."""
    message["rows"][0]["spans"][0]["logprobs"] = []


def not_a_number(message: dict[str, Any]) -> None:
    """A log-probability that is NaN, which JSON has not, and Python writes."""
    message["rows"][0]["spans"][0]["logprobs"][0] = float("nan")


async def test_what_cannot_be_trained_on_is_dropped_and_counted(world: World) -> None:
    def of(index: int, *rows: Any, **changes: Any) -> TrainingSample:
        return make_sample(index, *rows, **({"policy": world.policy} | changes))

    bad = {
        "malformed": [b"not json", b"\xff\xfe", spoilt(of(0), lambda message: message.pop("rollout_id"))],
        "wrong_lengths": [spoilt(of(1), longer_than_its_row)],
        "missing_logprobs": [spoilt(of(2), without_logprobs)],
        "empty_rows": [spoilt(of(3), lambda message: message.update(rows=[]))],
        "bad_logprob": [spoilt(of(4), not_a_number), encode(of(5, make_row([1, 2], make_span(1, [0.5]))))],
        "token_out_of_vocabulary": [encode(of(6, make_row([1, VOCABULARY], make_span(1, [-1.0]))))],
        "too_long": [encode(of(7, make_row([1] * 65, make_span(1, [-1.0]))))],
        "unknown_version": [encode(of(8, make_row([1, 2], make_span(1, [-1.0], version=5))))],
        "bad_advantage": [encode(of(13, make_row([1, 2], make_span(1, [-1.0], advantage=1e39))))],
        "bad_reward": [
            spoilt(of(9), lambda message: message.update(reward=float("inf"))),
            spoilt(of(9), lambda message: message.update(reward=float("nan"))),
            encode(of(9, reward=1e31)),
        ],
        "other_policy": [encode(of(10, policy=f"{world.policy}-never-heard-of"))],
        "other_run": [encode(of(11, run="other"))],
        "other_tenant": [encode(of(12, tenant="other"))],
        "duplicate": [encode(of(20, reward=7.0))],
    }
    good = [encode(of(index)) for index in range(20, 20 + BATCH)]
    await world.publish_raw(good[0], *(value for values in bad.values() for value in values), *good[1:])
    await train(world, 1)
    assert world.registry.registered[0]["metrics"]["reward_mean"] == 0.5
    # Samples of other tests lie in the same topic.
    foreign = {"malformed", "other_policy"}
    counted = {reason: world.dropped(reason) for reason in bad}
    assert all(counted[reason] >= len(bad[reason]) for reason in foreign)
    assert {reason: counted[reason] for reason in bad if reason not in foreign} == {
        reason: len(values) for reason, values in bad.items() if reason not in foreign
    }
