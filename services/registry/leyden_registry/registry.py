"""What the registry does: each operation is one transaction that writes rows and their announcements.

Everything that changes a policy holds its row lock, so its versions, moves and announcements have one order,
and the outbox ids follow it.
"""

from collections.abc import Callable
from typing import Protocol

import structlog
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from leyden_platform.database import enqueue, transaction
from leyden_registry import metrics, repository
from leyden_registry.announcements import alias_moved, model_published
from leyden_registry.errors import Conflict, InUse, InvalidReference, InvalidWeight, NotFound, Retired
from leyden_registry.promotion import held_back, overweight
from leyden_registry.requests import ChangeRequest, MoveAliasRequest, PublishRequest
from leyden_registry.retention import in_use
from leyden_registry.tables import outbox
from leyden_registry.values import (
    AliasMove,
    Artifact,
    Placed,
    Policy,
    Publication,
    Version,
    VersionChange,
)
from leyden_schemas import WeightsKind

log = structlog.get_logger(__name__)


class Inspector(Protocol):
    """Verifies artifacts."""

    async def inspect(self, uri: str, kind: WeightsKind) -> Artifact:
        """The digests of a complete artifact; raises when it is not one."""
        ...


class Registry:
    """Policies, versions and aliases in Postgres.

    ``committed`` is called after a commit, when announcements wait in the outbox.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        inspector: Inspector,
        committed: Callable[[], None],
        *,
        retire_after_s: float = 0.0,
    ) -> None:
        self._engine, self._inspector, self._committed = engine, inspector, committed
        self._retire_after_s = retire_after_s

    async def publish(self, policy: str, request: PublishRequest) -> Publication:
        """Make the artifact the policy's next version, and move aliases forward to it.

        Repeating a ``version_id`` with the same content returns the version it made. Raises
        ``ArtifactRefused``, ``ArtifactTimedOut``, ``InvalidReference``, ``Conflict`` or
        ``DatabaseUnreachable``.
        """
        artifact = await self._inspector.inspect(request.artifact, request.kind)
        try:
            async with transaction(self._engine) as connection:
                publication = await _publish(connection, policy, request, artifact)
        except IntegrityError as error:
            raise Conflict(f"version_id {request.version_id} was used at the same time elsewhere") from error
        self._committed()
        _count_publication(publication)
        return publication

    async def move_alias(self, policy: str, alias: str, request: MoveAliasRequest) -> AliasMove:
        """Make the alias name a version, forwards or backwards, and take a share of traffic or none.

        Nothing happens when it already does. Raises ``NotFound``, ``Retired``, ``InvalidWeight`` or
        ``DatabaseUnreachable``.
        """
        async with transaction(self._engine) as connection:
            await repository.lock_policy(connection, policy)
            target = await _usable(connection, policy, request.version)
            places = await repository.aliases_of(connection, policy)
            current = places.get(alias)
            if current and (current.version, current.weight) == (target.version, request.weight):
                return current
            weights = {name: place.weight for name, place in places.items() if place.weight is not None}
            if reason := overweight(alias, request.weight, weights):
                raise InvalidWeight(f"{policy}#{alias}: {reason}")
            move = await repository.record_move(
                connection,
                target,
                alias,
                current.version if current else None,
                actor=request.actor,
                reason=request.reason,
                weight=request.weight,
            )
            await enqueue(connection, outbox, alias_moved(move))
        self._committed()
        metrics.ALIAS_MOVES.labels("explicit").inc()
        log.info(
            "alias_moved",
            policy=policy,
            alias=alias,
            version=move.version,
            previous=move.previous,
            weight=move.weight,
        )
        return move

    async def retire(self, policy: str, number: int, request: ChangeRequest) -> Placed:
        """Let a version's weights go, unless something needs them; repeating it changes nothing.

        No alias can be moved to it any more and no pin set, so whoever deletes afterwards deletes nothing
        that is used. Raises ``NotFound``, ``InUse`` or ``DatabaseUnreachable``.
        """
        async with transaction(self._engine) as connection:
            await repository.lock_policy(connection, policy)
            version = await _existing(connection, policy, number)
            if version.retired_at:
                return Placed(version, [], [])
            uses = await repository.uses_of(connection, version)
            if held := in_use(version, uses, grace_s=self._retire_after_s):
                metrics.RETIREMENTS_REFUSED.labels(held[0]).inc()
                raise InUse(*held)
            retired = await repository.retire(connection, version)
            await repository.record_change(
                connection, version, "retired", None, actor=request.actor, reason=request.reason
            )
        metrics.RETIRED.inc()
        log.info("version_retired", policy=policy, version=number, actor=request.actor, reason=request.reason)
        return Placed(retired, [], [])

    async def pin(self, policy: str, number: int, holder: str, request: ChangeRequest) -> Placed:
        """Keep a version for this holder until it is unpinned; nothing happens when it is pinned already.

        Raises ``NotFound``, ``Retired`` or ``DatabaseUnreachable``.
        """
        async with transaction(self._engine) as connection:
            await repository.lock_policy(connection, policy)
            version = await _usable(connection, policy, number)
            if holder not in (await repository.pins_of(connection, policy, number)).get(number, []):
                change = await repository.record_change(
                    connection, version, "pinned", holder, actor=request.actor, reason=request.reason
                )
                await repository.set_pin(connection, change)
                metrics.PINS.labels("pinned").inc()
                log.info(
                    "version_pinned", policy=policy, version=number, holder=holder, reason=request.reason
                )
            return await _placed(connection, version)

    async def unpin(self, policy: str, number: int, holder: str, request: ChangeRequest) -> Placed:
        """End a pin; nothing happens when there is none. Raises ``NotFound`` or ``DatabaseUnreachable``."""
        async with transaction(self._engine) as connection:
            await repository.lock_policy(connection, policy)
            version = await _existing(connection, policy, number)
            if holder in (await repository.pins_of(connection, policy, number)).get(number, []):
                await repository.remove_pin(connection, policy, number, holder)
                await repository.record_change(
                    connection, version, "unpinned", holder, actor=request.actor, reason=request.reason
                )
                metrics.PINS.labels("unpinned").inc()
                log.info("version_unpinned", policy=policy, version=number, holder=holder)
            return await _placed(connection, version)

    async def changes(self, policy: str, limit: int) -> list[VersionChange]:
        """Pins and retirements of a policy, latest first. Raises ``NotFound``."""
        async with transaction(self._engine) as connection:
            await repository.policy_named(connection, policy)
            return await repository.changes_of(connection, policy, limit)

    async def announce(self) -> int:
        """Enqueue every version and alias again, except what still waits in the outbox; how many messages.

        Event ids repeat, so readers recognise what they know. Raises ``DatabaseUnreachable``.
        """
        async with transaction(self._engine) as connection:
            names = await repository.policy_names(connection)
        count = 0
        for policy in names:
            count += await self._announce(policy)
        self._committed()
        metrics.ANNOUNCED.inc(count)
        log.info("announced_again", policies=len(names), messages=count)
        return count

    async def _announce(self, policy: str) -> int:
        async with transaction(self._engine) as connection:
            await repository.lock_policy(connection, policy)
            pending = await repository.pending_event_ids(connection)
            published = map(model_published, reversed(await repository.versions_of(connection, policy)))
            moved = map(alias_moved, (await repository.aliases_of(connection, policy)).values())
            fresh = [message for message in (*published, *moved) if message.event_id not in pending]
            await enqueue(connection, outbox, *fresh)
        return len(fresh)

    async def policies(self) -> list[Policy]:
        """All policies, by name."""
        async with transaction(self._engine) as connection:
            return await repository.all_policies(connection)

    async def policy(self, policy: str) -> Policy:
        """One policy. Raises ``NotFound``."""
        async with transaction(self._engine) as connection:
            return await repository.policy_named(connection, policy)

    async def versions(self, policy: str, before: int | None, limit: int | None) -> list[Placed]:
        """Versions, newest first. Raises ``NotFound`` when the policy is unknown."""
        async with transaction(self._engine) as connection:
            names = (await repository.policy_named(connection, policy)).aliases
            pins = await repository.pins_of(connection, policy)
            found = await repository.versions_of(connection, policy, before=before, limit=limit)
        return [Placed(version, _naming(names, version), pins.get(version.version, [])) for version in found]

    async def version(self, policy: str, number: int) -> Placed:
        """One version and the aliases that name it. Raises ``NotFound``."""
        async with transaction(self._engine) as connection:
            return await _placed(connection, await _existing(connection, policy, number))

    async def moves(self, policy: str, limit: int) -> list[AliasMove]:
        """The audit of a policy, latest first. Raises ``NotFound``."""
        async with transaction(self._engine) as connection:
            await repository.policy_named(connection, policy)
            return await repository.moves_of(connection, policy, limit)


async def _publish(
    connection: AsyncConnection, policy: str, request: PublishRequest, artifact: Artifact
) -> Publication:
    await repository.create_and_lock_policy(connection, policy, request.tenant)
    if known := await repository.version_by_id(connection, request.version_id):
        if difference := _difference(known, policy, request, artifact):
            raise Conflict(
                f"version_id {request.version_id} is {known.policy}@{known.version} already, with another "
                f"{difference}; give a new checkpoint a new version_id and folder"
            )
        return Publication(await _placed(connection, known), created=False, held={})
    await _check_parent(connection, policy, request)
    version = await repository.add_version(connection, policy, request, artifact)
    moves, held = await _advance(connection, version, request.aliases)
    await enqueue(connection, outbox, model_published(version), *map(alias_moved, moves))
    placed = Placed(version, sorted(move.alias for move in moves), [])
    return Publication(placed, created=True, held=held)


async def _check_parent(connection: AsyncConnection, policy: str, request: PublishRequest) -> None:
    if request.parent is None:
        return
    parent = await repository.version_numbered(connection, policy, request.parent)
    if parent is None:
        raise InvalidReference(f"parent {policy}@{request.parent} does not exist")
    if parent.retired_at and request.kind is WeightsKind.LORA:
        raise InvalidReference(
            f"parent {policy}@{request.parent} is retired, so an adapter cannot apply to it"
        )


async def _advance(
    connection: AsyncConnection, version: Version, names: list[str]
) -> tuple[list[AliasMove], dict[str, str]]:
    """Move the aliases that may move; the moves, and why the others stayed."""
    current = await repository.aliases_of(connection, version.policy)
    moves: list[AliasMove] = []
    held: dict[str, str] = {}
    for alias in dict.fromkeys(names):
        place = current.get(alias)
        named = (
            await repository.version_numbered(connection, version.policy, place.version) if place else None
        )
        if reason := held_back(named, version):
            held[alias] = reason
            continue
        moves.append(
            await repository.record_move(
                connection,
                version,
                alias,
                named.version if named else None,
                actor=f"run:{version.run}",
                reason="published",
                weight=place.weight if place else None,
            )
        )
    return moves, held


async def _existing(connection: AsyncConnection, policy: str, number: int) -> Version:
    found = await repository.version_numbered(connection, policy, number)
    if found is None:
        raise NotFound(f"there is no version {policy}@{number}")
    return found


async def _usable(connection: AsyncConnection, policy: str, number: int) -> Version:
    version = await _existing(connection, policy, number)
    if version.retired_at:
        raise Retired(
            f"{policy}@{number} was retired at {version.retired_at:%Y-%m-%d %H:%M:%S} UTC, its weights may "
            "be gone. Choose a version that is not retired, or import the weights again from a copy"
        )
    return version


async def _placed(connection: AsyncConnection, version: Version) -> Placed:
    names = (await repository.policy_named(connection, version.policy)).aliases
    pins = await repository.pins_of(connection, version.policy, version.version)
    return Placed(version, _naming(names, version), pins.get(version.version, []))


def _naming(aliases: dict[str, int], version: Version) -> list[str]:
    return sorted(alias for alias, number in aliases.items() if number == version.version)


def _difference(known: Version, policy: str, request: PublishRequest, artifact: Artifact) -> str | None:
    """The first field in which a repeated publication differs, or None.

    Metrics are not compared: they describe the making, not what is served; the first ones stay.
    """
    pairs: dict[str, tuple[object, object]] = {
        "policy": (known.policy, policy),
        "tenant": (known.tenant, request.tenant),
        "run": (known.run, request.run),
        "artifact": (known.artifact.uri, artifact.uri),
        "content of the artifact": (known.artifact.digest, artifact.digest),
        "kind": (known.kind, request.kind),
        "parent": (known.parent, request.parent),
        "step": (known.step, request.step),
        "prompt_version": (known.prompt_version, request.prompt_version),
        "sampling_defaults": (known.sampling_defaults, request.sampling_defaults),
    }
    return next((name for name, (before, now) in pairs.items() if before != now), None)


def _count_publication(publication: Publication) -> None:
    version, aliases = publication.placed.version, publication.placed.aliases
    if not publication.created:
        metrics.VERSIONS_REPEATED.inc()
        return
    metrics.VERSIONS_PUBLISHED.labels(version.kind.value).inc()
    metrics.ALIAS_MOVES.labels("published").inc(len(aliases))
    metrics.ALIAS_HELD.inc(len(publication.held))
    log.info(
        "version_published",
        policy=version.policy,
        version=version.version,
        run=version.run,
        step=version.step,
        aliases=aliases,
        held=publication.held,
    )
