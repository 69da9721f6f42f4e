"""Every query of the registry. Each function works inside the caller's transaction."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from leyden_registry.errors import Conflict, NotFound
from leyden_registry.requests import PublishRequest
from leyden_registry.retention import Uses
from leyden_registry.tables import alias_moves, aliases, outbox, pins, policies, version_changes, versions
from leyden_registry.values import AliasMove, Artifact, Policy, Version, VersionChange
from leyden_schemas import WeightsKind


async def create_and_lock_policy(connection: AsyncConnection, policy: str, tenant: str) -> None:
    """Make sure the policy exists and hold its row until the transaction ends.

    Raises ``Conflict`` when it belongs to another tenant.
    """
    new = upsert(policies).values(policy=policy, tenant=tenant, next_version=0).on_conflict_do_nothing()
    await connection.execute(new)
    owner = await connection.scalar(
        select(policies.c.tenant).where(policies.c.policy == policy).with_for_update()
    )
    if owner != tenant:
        raise Conflict(f"policy {policy} belongs to another tenant than {tenant}; choose another name")


async def lock_policy(connection: AsyncConnection, policy: str) -> None:
    """Hold the policy's row until the transaction ends. Raises ``NotFound``."""
    held = select(policies.c.policy).where(policies.c.policy == policy).with_for_update()
    if await connection.scalar(held) is None:
        raise NotFound(f"there is no policy {policy}")


async def add_version(
    connection: AsyncConnection, policy: str, request: PublishRequest, artifact: Artifact
) -> Version:
    """The policy's next version; numbers count up from 0 without gaps."""
    number = await connection.scalar(
        update(policies)
        .where(policies.c.policy == policy)
        .values(next_version=policies.c.next_version + 1)
        .returning(policies.c.next_version - 1)
    )
    row = insert(versions).values(
        policy=policy,
        version=number,
        version_id=request.version_id,
        tenant=request.tenant,
        run=request.run,
        artifact=artifact.uri,
        digest=artifact.digest,
        tokenizer_digest=artifact.tokenizer_digest,
        chat_template_digest=artifact.chat_template_digest,
        kind=request.kind.value,
        parent=request.parent,
        step=request.step,
        prompt_version=request.prompt_version,
        sampling_defaults=request.sampling_defaults,
        metrics=request.metrics,
    )
    return _version((await connection.execute(row.returning(versions))).one())


async def version_by_id(connection: AsyncConnection, version_id: UUID) -> Version | None:
    """The version published under this idempotency key."""
    row = (await connection.execute(select(versions).where(versions.c.version_id == version_id))).first()
    return _version(row) if row else None


async def version_numbered(connection: AsyncConnection, policy: str, number: int) -> Version | None:
    """One version of a policy."""
    found = select(versions).where(versions.c.policy == policy, versions.c.version == number)
    row = (await connection.execute(found)).first()
    return _version(row) if row else None


async def versions_of(
    connection: AsyncConnection, policy: str, *, before: int | None = None, limit: int | None = None
) -> list[Version]:
    """Versions of a policy, newest first; those below ``before`` and at most ``limit`` when given."""
    found = select(versions).where(versions.c.policy == policy).order_by(versions.c.version.desc())
    if before is not None:
        found = found.where(versions.c.version < before)
    return [_version(row) for row in (await connection.execute(found.limit(limit))).all()]


async def record_move(
    connection: AsyncConnection,
    target: Version,
    alias: str,
    previous: int | None,
    *,
    actor: str,
    reason: str,
    weight: float | None,
) -> AliasMove:
    """Make ``alias`` name ``target``, and write it into the audit."""
    audit = insert(alias_moves).values(
        policy=target.policy,
        alias=alias,
        previous=previous,
        version=target.version,
        actor=actor,
        reason=reason,
        weight=weight,
    )
    row = (await connection.execute(audit.returning(alias_moves))).one()
    place = upsert(aliases).values(policy=target.policy, alias=alias, move_id=row.move_id)
    await connection.execute(
        place.on_conflict_do_update(
            index_elements=["policy", "alias"], set_={"move_id": place.excluded.move_id}
        )
    )
    return _move(row, target.tenant, target.run)


async def aliases_of(connection: AsyncConnection, policy: str) -> dict[str, AliasMove]:
    """Alias to its latest move."""
    found = _moves().join(aliases, aliases.c.move_id == alias_moves.c.move_id)
    rows = await connection.execute(found.where(alias_moves.c.policy == policy).order_by(alias_moves.c.alias))
    return {row.alias: _move(row, row.tenant, row.run) for row in rows}


async def moves_of(connection: AsyncConnection, policy: str, limit: int) -> list[AliasMove]:
    """The audit of a policy, latest first."""
    found = _moves().where(alias_moves.c.policy == policy).order_by(alias_moves.c.move_id.desc()).limit(limit)
    return [_move(row, row.tenant, row.run) for row in await connection.execute(found)]


async def uses_of(connection: AsyncConnection, version: Version) -> Uses:
    """What may hold the version. Call it with the policy locked."""
    policy, number = version.policy, version.version
    newest = await connection.scalar(select(func.max(versions.c.version)).where(versions.c.policy == policy))
    adapters = await connection.scalars(
        select(versions.c.version).where(
            versions.c.policy == policy,
            versions.c.parent == number,
            versions.c.kind == WeightsKind.LORA.value,
            versions.c.retired_at.is_(None),
        )
    )
    replaced_at = await connection.scalar(
        select(versions.c.published_at).where(versions.c.policy == policy, versions.c.version == number + 1)
    )
    left_at = await connection.scalar(
        select(func.max(alias_moves.c.moved_at)).where(
            alias_moves.c.policy == policy, alias_moves.c.previous == number
        )
    )
    return Uses(
        newest=newest or 0,
        places=await aliases_of(connection, policy),
        holders=(await pins_of(connection, policy, number)).get(number, []),
        adapters=list(adapters),
        left_at=max(at for at in (version.published_at, replaced_at, left_at) if at is not None),
        now=(await connection.execute(select(func.clock_timestamp()))).scalar_one(),
    )


async def retire(connection: AsyncConnection, version: Version) -> Version:
    """From now on the version's weights may be gone."""
    change = (
        update(versions)
        .where(versions.c.policy == version.policy, versions.c.version == version.version)
        .values(retired_at=func.now())
    )
    return _version((await connection.execute(change.returning(versions))).one())


async def pins_of(
    connection: AsyncConnection, policy: str, number: int | None = None
) -> dict[int, list[str]]:
    """Version to the holders of its pins."""
    found = select(pins).where(pins.c.policy == policy).order_by(pins.c.version, pins.c.holder)
    if number is not None:
        found = found.where(pins.c.version == number)
    held: dict[int, list[str]] = {}
    for row in await connection.execute(found):
        held.setdefault(row.version, []).append(row.holder)
    return held


async def set_pin(connection: AsyncConnection, change: VersionChange) -> None:
    """Let the change's holder hold its version."""
    row = insert(pins).values(
        policy=change.policy, version=change.version, holder=change.holder, change_id=change.change_id
    )
    await connection.execute(row)


async def remove_pin(connection: AsyncConnection, policy: str, number: int, holder: str) -> None:
    """Take a pin away."""
    where = (pins.c.policy == policy) & (pins.c.version == number) & (pins.c.holder == holder)
    await connection.execute(delete(pins).where(where))


async def record_change(
    connection: AsyncConnection, version: Version, change: str, holder: str | None, *, actor: str, reason: str
) -> VersionChange:
    """Write a pin, its end or a retirement into the audit."""
    row = insert(version_changes).values(
        policy=version.policy,
        version=version.version,
        change=change,
        holder=holder,
        actor=actor,
        reason=reason,
    )
    return _change((await connection.execute(row.returning(version_changes))).one())


async def changes_of(connection: AsyncConnection, policy: str, limit: int) -> list[VersionChange]:
    """That audit of a policy, latest first."""
    found = (
        select(version_changes)
        .where(version_changes.c.policy == policy)
        .order_by(version_changes.c.change_id.desc())
        .limit(limit)
    )
    return [_change(row) for row in await connection.execute(found)]


async def policy_names(connection: AsyncConnection) -> list[str]:
    """All policies, by name."""
    return list(await connection.scalars(select(policies.c.policy).order_by(policies.c.policy)))


async def all_policies(connection: AsyncConnection) -> list[Policy]:
    """Every policy with its newest version and aliases."""
    return await _policies(connection, select(policies).order_by(policies.c.policy))


async def policy_named(connection: AsyncConnection, policy: str) -> Policy:
    """One policy. Raises ``NotFound``."""
    found = await _policies(connection, select(policies).where(policies.c.policy == policy))
    if not found:
        raise NotFound(f"there is no policy {policy}")
    return found[0]


async def pending_event_ids(connection: AsyncConnection) -> set[UUID]:
    """Events that lie in the outbox, not yet published."""
    waiting = select(outbox.c.headers["ce_id"].astext).where(outbox.c.refused.is_(None))
    return {UUID(text) for text in await connection.scalars(waiting)}


async def _policies(connection: AsyncConnection, found: Select[Any]) -> list[Policy]:
    rows = (await connection.execute(found)).all()
    placed = (
        select(aliases.c.policy, aliases.c.alias, alias_moves.c.version, alias_moves.c.weight)
        .join(alias_moves, aliases.c.move_id == alias_moves.c.move_id)
        .where(aliases.c.policy.in_([row.policy for row in rows]))
        .order_by(aliases.c.alias)
    )
    named: dict[str, dict[str, int]] = {row.policy: {} for row in rows}
    weights: dict[str, dict[str, float]] = {row.policy: {} for row in rows}
    for place in await connection.execute(placed):
        named[place.policy][place.alias] = place.version
        if place.weight is not None:
            weights[place.policy][place.alias] = place.weight
    return [
        Policy(
            row.policy,
            row.tenant,
            row.next_version - 1,
            named[row.policy],
            weights[row.policy],
            row.created_at,
        )
        for row in rows
    ]


def _moves() -> Select[Any]:
    target = (versions.c.policy == alias_moves.c.policy) & (versions.c.version == alias_moves.c.version)
    return select(alias_moves, versions.c.tenant, versions.c.run).join(versions, target)


def _move(row: Row[Any], tenant: str, run: str) -> AliasMove:
    return AliasMove(
        row.move_id, row.policy, row.alias, row.previous, row.version, tenant, run,
        row.actor, row.reason, row.moved_at, row.weight,
    )  # fmt: skip


def _change(row: Row[Any]) -> VersionChange:
    return VersionChange(
        row.change_id, row.policy, row.version, row.change, row.holder,
        row.actor, row.reason, row.changed_at,
    )  # fmt: skip


def _version(row: Row[Any]) -> Version:
    return Version(
        policy=row.policy,
        version=row.version,
        version_id=row.version_id,
        tenant=row.tenant,
        run=row.run,
        artifact=Artifact(row.artifact, row.digest, row.tokenizer_digest, row.chat_template_digest),
        kind=WeightsKind(row.kind),
        parent=row.parent,
        step=row.step,
        prompt_version=row.prompt_version,
        sampling_defaults=row.sampling_defaults,
        metrics=row.metrics,
        published_at=row.published_at,
        retired_at=row.retired_at,
    )
