"""What is taken in from the log: whatever a record holds, it waits or is dropped by a name."""

import json
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from leyden_learner.admission import Admission
from leyden_learner.batching import BatchRule, SampleBuffer
from leyden_learner.intake import Intake
from leyden_learner.patience import Patience
from leyden_learner.repository import CheckpointRepository
from leyden_learner.testing import VOCABULARY, make_sample
from leyden_platform.messaging import Partition, Record
from leyden_schemas import Topics, encode


class NothingTrained:
    """A repository of a run that has not begun."""

    async def trained_among(self, _rollout_ids: set[UUID]) -> set[UUID]:
        """None."""
        return set()


@pytest.fixture
def policy() -> str:
    """Of this test alone, for its metrics."""
    return f"tiny-{uuid4().hex[:8]}"


@pytest.fixture
def buffer() -> SampleBuffer:
    return SampleBuffer(BatchRule(min_rollouts=1, timeout_s=1.0, rollouts=4))


@pytest.fixture
def intake(policy: str, buffer: SampleBuffer) -> Intake:
    """At most ten rollouts of a queue, sampled by version 2 or the two before it."""
    admission = Admission(policy, "default", "default", 2, VOCABULARY, 16)
    return Intake(
        buffer,
        admission,
        share=10,
        repository=cast("CheckpointRepository", NothingTrained()),
        patience=Patience(policy),
        newest=lambda: 2,
        now_s=lambda: 0.0,
        positions={},
    )


def dropped(policy: str) -> dict[str, float]:
    """How many, by reason."""
    counter = "leyden_learner_samples_dropped_total"
    return {
        sample.labels["reason"]: sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == counter and sample.labels["policy"] == policy
    }


def record(offset: int, value: bytes | None) -> Record:
    return Record(Partition(Topics.SAMPLES.name, 0), offset, b"key", value)


def as_sample(policy: str, **changes: Any) -> bytes:
    """Bytes of a good sample after a change, which may be one that JSON lacks."""
    return json.dumps(json.loads(encode(make_sample(0, policy=policy))) | changes).encode()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda _policy: None, "malformed"),
        (lambda _policy: b"", "malformed"),
        (lambda policy: b'{"policy": "%b", "rows": %b' % (policy.encode(), b"[" * 100_000), "malformed"),
        (lambda policy: as_sample(policy, reward=float("nan")), "bad_reward"),
        (lambda policy: as_sample(policy, reward=float("-inf")), "bad_reward"),
        (lambda policy: as_sample(policy, reward=7).replace(b": 7", b": 1e999"), "bad_reward"),
        (lambda policy: as_sample(policy, queue=None), "malformed"),
        (lambda policy: as_sample(policy, queue="\ud800"), "malformed"),
        (lambda policy: as_sample(policy + "-other", reward=float("nan")), "other_policy"),
    ],
)
async def test_what_is_no_sample_is_dropped_by_name_and_the_next_is_taken(
    intake: Intake,
    buffer: SampleBuffer,
    policy: str,
    value: Callable[[str], bytes | None],
    reason: str,
) -> None:
    good = encode(make_sample(1, policy=policy))
    await intake.scan([record(0, value(policy)), record(1, good)])
    assert dropped(policy) == {reason: 1}
    assert len(buffer) == 1
    assert intake.low_watermark == {0: 1}


async def test_a_queue_may_have_any_name(intake: Intake, buffer: SampleBuffer, policy: str) -> None:
    for offset, queue in enumerate(("", "a b", "\n")):
        await intake.scan([record(offset, encode(make_sample(offset, policy=policy, queue=queue)))])
    assert dropped(policy) == {}
    assert len(buffer) == 3
