"""All queries of the learner: checkpoints, and which rollouts were trained on.

``trained_rollouts`` is both the guard against training twice and the lineage of a version.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from leyden_learner.batching import Turns
from leyden_platform.artifacts import artifact_path
from leyden_platform.database import transaction
from leyden_platform.objects import is_object_url
from leyden_schemas import WeightsKind

SCHEMA = "learner"
METADATA = sa.MetaData(schema=SCHEMA)

CHECKPOINTS = sa.Table(
    "checkpoints",
    METADATA,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("parent", sa.Integer, nullable=False),
    sa.Column("offsets", JSONB, nullable=False),
    sa.Column("metrics", JSONB, nullable=False),
    sa.Column("version_id", sa.Uuid, nullable=False, unique=True),
    sa.Column("version", sa.Integer),
    sa.Column("kind", sa.Text, nullable=False, server_default="full"),
    sa.Column("base_version", sa.Integer),
    sa.Column("turns", JSONB, nullable=False, server_default="{}"),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)
TRAINED = sa.Table(
    "trained_rollouts",
    METADATA,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("rollout_id", sa.Uuid, primary_key=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("trained_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.ForeignKeyConstraint(
        ["policy", "run", "step"], [CHECKPOINTS.c.policy, CHECKPOINTS.c.run, CHECKPOINTS.c.step]
    ),
    sa.Index("trained_rollouts_of_step", "policy", "run", "step"),
)


class Superseded(RuntimeError):
    """Another learner of the same policy and run has committed this step or these rollouts."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed step: where its weights lie, and from where the samples topic goes on after it."""

    step: int
    artifact: str
    """URI of the checkpoint, in a folder or an object store."""
    digest: str
    base: str
    """URI of the full weights the run began with, which a KL term refers to and adapters lie over."""
    parent: int
    """Registry version the step started from."""
    version_id: UUID
    offsets: Mapping[int, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None
    """Registry version of these weights; None until it is known to be registered."""
    kind: WeightsKind = WeightsKind.FULL
    """Whether it is a model, or an adapter over the weights the run began with."""
    base_version: int | None = None
    """Registry version of the weights the run began with; None in rows older than this column."""
    turns: Turns = field(default_factory=Turns)
    """Whose turn it is after it; nobody's in rows older than this column."""

    @property
    def path(self) -> Path:
        """Its folder. Raises ``UnsupportedArtifact`` when it lies in an object store."""
        return artifact_path(self.artifact)

    @property
    def name(self) -> str:
        """The last part of its place, unique within policy and run."""
        return self.artifact.rstrip("/").rsplit("/", 1)[-1]


class CheckpointRepository:
    """Checkpoints of one policy and run. All methods raise ``DatabaseUnreachable`` when Postgres is away."""

    def __init__(self, engine: AsyncEngine, policy: str, run: str) -> None:
        self._engine, self._policy, self._run = engine, policy, run

    async def newest(self, count: int = 1) -> list[Checkpoint]:
        """The last ``count`` checkpoints, newest first."""
        query = (
            sa.select(CHECKPOINTS)
            .where(self._mine(CHECKPOINTS))
            .order_by(CHECKPOINTS.c.step.desc())
            .limit(count)
        )
        async with transaction(self._engine) as connection:
            return [_checkpoint(row) for row in (await connection.execute(query)).mappings()]

    async def among(self, artifacts: Collection[str]) -> list[Checkpoint]:
        """Those of these places that are committed checkpoints, newest first."""
        query = (
            sa.select(CHECKPOINTS)
            .where(self._mine(CHECKPOINTS), CHECKPOINTS.c.path.in_([_stored(uri) for uri in artifacts]))
            .order_by(CHECKPOINTS.c.step.desc())
        )
        async with transaction(self._engine) as connection:
            return [_checkpoint(row) for row in (await connection.execute(query)).mappings()]

    async def trained_among(self, rollout_ids: Collection[UUID]) -> set[UUID]:
        """Those of ``rollout_ids`` that a committed step has trained on."""
        query = sa.select(TRAINED.c.rollout_id).where(
            self._mine(TRAINED), TRAINED.c.rollout_id.in_(list(rollout_ids))
        )
        async with transaction(self._engine) as connection:
            return set((await connection.execute(query)).scalars())

    async def commit(self, checkpoint: Checkpoint, rollout_ids: Collection[UUID]) -> None:
        """Record a step, its offsets and its rollouts in one transaction; repeating it changes nothing.

        Raises ``Superseded`` when somebody else recorded the step or trained one of the rollouts.
        """
        row = {
            **self._key(checkpoint.step),
            "path": _stored(checkpoint.artifact),
            "digest": checkpoint.digest,
            "base": _stored(checkpoint.base),
            "parent": checkpoint.parent,
            "offsets": {str(partition): offset for partition, offset in checkpoint.offsets.items()},
            "metrics": dict(checkpoint.metrics),
            "version_id": checkpoint.version_id,
            "kind": checkpoint.kind.value,
            "base_version": checkpoint.base_version,
            "turns": checkpoint.turns.as_json(),
        }
        rollouts = [{**self._key(checkpoint.step), "rollout_id": rollout_id} for rollout_id in rollout_ids]
        try:
            async with transaction(self._engine) as connection:
                new = insert(CHECKPOINTS).values(row).on_conflict_do_nothing().returning(CHECKPOINTS.c.step)
                if (await connection.execute(new)).scalar() is not None:
                    await connection.execute(insert(TRAINED), rollouts)
                    return
                stored = sa.select(CHECKPOINTS.c.path).where(self._is(checkpoint.step))
                path = (await connection.execute(stored)).scalar()
        except IntegrityError as error:
            raise Superseded(f"{self._name(checkpoint)}: a rollout of it is already trained on") from error
        if path != _stored(checkpoint.artifact):
            raise Superseded(
                f"{self._name(checkpoint)} was committed by another learner; run one per policy and run"
            )

    async def set_version(self, step: int, version: int) -> None:
        """Note that the registry knows the checkpoint as ``version``."""
        update = sa.update(CHECKPOINTS).where(self._is(step)).values(version=version)
        async with transaction(self._engine) as connection:
            await connection.execute(update)

    def _mine(self, table: sa.Table) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.policy == self._policy, table.c.run == self._run)

    def _is(self, step: int) -> sa.ColumnElement[bool]:
        return sa.and_(self._mine(CHECKPOINTS), CHECKPOINTS.c.step == step)

    def _key(self, step: int) -> dict[str, Any]:
        return {"policy": self._policy, "run": self._run, "step": step}

    def _name(self, checkpoint: Checkpoint) -> str:
        return f"step {checkpoint.step} of {self._policy} in run {self._run}"


def _stored(uri: str) -> str:
    """How tables have a place: a folder as its path, an object store's as its URL."""
    return uri if is_object_url(uri) else str(artifact_path(uri))


def _uri(stored: str) -> str:
    return stored if is_object_url(stored) else Path(stored).as_uri()


def _checkpoint(row: sa.RowMapping) -> Checkpoint:
    return Checkpoint(
        step=row["step"],
        artifact=_uri(row["path"]),
        digest=row["digest"],
        base=_uri(row["base"]),
        parent=row["parent"],
        version_id=row["version_id"],
        offsets={int(partition): offset for partition, offset in row["offsets"].items()},
        metrics=row["metrics"],
        version=row["version"],
        kind=WeightsKind(row["kind"]),
        base_version=row["base_version"],
        turns=Turns.of(row["turns"]),
    )
