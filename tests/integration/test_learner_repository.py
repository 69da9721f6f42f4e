"""Checkpoints and trained rollouts in a real Postgres."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid5

import pytest

from leyden_learner.batching import Turns
from leyden_learner.repository import METADATA, SCHEMA, Checkpoint, CheckpointRepository, Superseded
from leyden_platform.database import create_engine, migrate, schema_drift
from leyden_platform.settings import DatabaseSettings

pytestmark = pytest.mark.postgres

ROLLOUTS = [UUID(int=number) for number in range(1, 6)]


def checkpoint(step: int, path: str = "/somewhere") -> Checkpoint:
    """A checkpoint that the registry does not know yet."""
    return Checkpoint(
        step=step,
        artifact=f"file://{path}/step-{step}",
        digest="d" * 64,
        base="file:///base",
        parent=step - 1,
        version_id=uuid5(UUID(int=0), str(step)),
        offsets={0: 10 * step, 3: 7},
        metrics={"loss": 0.5},
        turns=Turns(
            step / 3,
            {"gpu": 0.1 + step, "cpu": step / 7},
            frozenset({"gpu"}),
            {UUID(int=7): frozenset(ROLLOUTS[:step])},
        ),
    )


@pytest.fixture
async def repository(database: DatabaseSettings) -> AsyncIterator[CheckpointRepository]:
    await migrate(database, "leyden_learner", SCHEMA)
    engine = create_engine(database)
    yield CheckpointRepository(engine, "tiny", "default")
    await engine.dispose()


async def test_migrations_make_the_tables_that_the_queries_expect(database: DatabaseSettings) -> None:
    await migrate(database, "leyden_learner", SCHEMA)
    engine = create_engine(database)
    assert await schema_drift(engine, METADATA, SCHEMA) == []
    await engine.dispose()


async def test_a_checkpoint_comes_back_as_it_was(repository: CheckpointRepository) -> None:
    assert await repository.newest() == []
    await repository.commit(checkpoint(1), ROLLOUTS[:2])
    await repository.commit(checkpoint(2), ROLLOUTS[2:3])
    assert await repository.newest() == [checkpoint(2)]
    await repository.set_version(2, 9)
    assert await repository.newest(5) == [replace(checkpoint(2), version=9), checkpoint(1)]
    places = [checkpoint(1).artifact, checkpoint(2).artifact, "file:///other", "s3://bucket/step-1"]
    assert await repository.among(places) == [replace(checkpoint(2), version=9), checkpoint(1)]


async def test_trained_rollouts_are_those_of_committed_steps(repository: CheckpointRepository) -> None:
    await repository.commit(checkpoint(1), ROLLOUTS[:2])
    assert await repository.trained_among(ROLLOUTS[1:4]) == {ROLLOUTS[1]}


async def test_committing_again_after_a_lost_answer_changes_nothing(repository: CheckpointRepository) -> None:
    for _ in range(2):
        await repository.commit(checkpoint(1), ROLLOUTS[:2])
    assert await repository.newest(5) == [checkpoint(1)]


async def test_a_second_learner_s_step_is_refused(repository: CheckpointRepository) -> None:
    await repository.commit(checkpoint(1), ROLLOUTS[:2])
    with pytest.raises(Superseded, match="run one per policy and run"):
        await repository.commit(checkpoint(1, "/elsewhere"), ROLLOUTS[2:])
    assert await repository.trained_among(ROLLOUTS) == set(ROLLOUTS[:2])


async def test_no_rollout_is_trained_twice_and_nothing_of_the_step_is_kept(
    repository: CheckpointRepository,
) -> None:
    await repository.commit(checkpoint(1), ROLLOUTS[:2])
    with pytest.raises(Superseded, match="already trained on"):
        await repository.commit(checkpoint(2), ROLLOUTS[1:3])
    assert await repository.newest() == [checkpoint(1)]


async def test_runs_and_policies_do_not_mix(
    repository: CheckpointRepository, database: DatabaseSettings
) -> None:
    await repository.commit(checkpoint(1), ROLLOUTS[:2])
    engine = create_engine(database)
    other = CheckpointRepository(engine, "tiny", "replay")
    assert await other.newest() == []
    assert await other.trained_among(ROLLOUTS) == set()
    await other.commit(replace(checkpoint(1), version_id=UUID(int=77)), ROLLOUTS[:2])
    await engine.dispose()
