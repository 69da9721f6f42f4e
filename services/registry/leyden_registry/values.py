"""What the registry knows, as immutable values."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from leyden_schemas import JsonObject, WeightsKind


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified checkpoint folder and the digests of what it holds."""

    uri: str
    digest: str
    tokenizer_digest: str
    chat_template_digest: str


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable set of weights of a policy, and where it came from."""

    policy: str
    version: int
    version_id: UUID
    """The publisher's idempotency key."""
    tenant: str
    run: str
    artifact: Artifact
    kind: WeightsKind
    parent: int | None
    step: int | None
    prompt_version: str | None
    sampling_defaults: JsonObject
    metrics: JsonObject
    published_at: datetime
    retired_at: datetime | None = None
    """Since when its weights may be gone."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of the audit: an alias came to name a version."""

    move_id: int
    policy: str
    alias: str
    previous: int | None
    version: int
    tenant: str
    run: str
    actor: str
    reason: str
    moved_at: datetime
    weight: float | None
    """The share of the policy's traffic that the alias takes as a canary."""


@dataclass(frozen=True, slots=True)
class VersionChange:
    """One line of the audit of pins and retirements."""

    change_id: int
    policy: str
    version: int
    change: str
    holder: str | None
    actor: str
    reason: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as it stands."""

    policy: str
    tenant: str
    newest: int
    aliases: dict[str, int]
    weights: dict[str, float]
    """Shares of traffic, of the aliases that have one."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Placed:
    """A version, the aliases that name it and who pinned it."""

    version: Version
    aliases: list[str]
    pins: list[str]
    """Holders of pins."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing did: the version, whether it is new, and why an alias was held back."""

    placed: Placed
    created: bool
    held: dict[str, str]
