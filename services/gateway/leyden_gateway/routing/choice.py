"""Which version answers a policy reference, and which replica: pure decisions over two tables.

The policy table is what the registry announced, the replica states are what is really loaded.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from uuid import UUID

from leyden_schemas import AliasMoved, ModelPublished, parse_policy_ref, policy_at

SERVING = "serving"
"""The alias that a bare policy name means."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Only this version will do."""

    policy: str
    version: int


@dataclass(frozen=True, slots=True)
class UpTo:
    """An alias names ``version``; until it is loaded, the newest older one may stand in."""

    policy: str
    version: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing announced answers the reference; ``why`` says what would."""

    why: str


Target = Exact | UpTo | Unknown


@dataclass(slots=True)
class PolicyTable:
    """Versions and aliases as announced on the models topic, in log order."""

    versions: dict[str, set[int]] = field(default_factory=dict)
    aliases: dict[str, dict[str, int]] = field(default_factory=dict)

    def apply(self, event: ModelPublished | AliasMoved) -> None:
        """Take in one announcement; a repeat changes nothing."""
        match event:
            case ModelPublished():
                self.versions.setdefault(event.policy, set()).add(event.version)
            case AliasMoved():
                self.aliases.setdefault(event.policy, {})[event.alias] = event.version

    def forget(self, key: str) -> None:
        """Take in a tombstone: the key of a version or an alias that is no more."""
        try:
            policy, which = parse_policy_ref(key)
        except ValueError:
            return
        if isinstance(which, int):
            self.versions.get(policy, set()).discard(which)
        elif which is not None:
            self.aliases.get(policy, {}).pop(which, None)

    def target(self, ref: str) -> Target:
        """What ``policy``, ``policy@version`` or ``policy#alias`` means now."""
        try:
            policy, which = parse_policy_ref(ref)
        except ValueError as error:
            return Unknown(str(error))
        if policy not in self.versions and policy not in self.aliases:
            return Unknown(f"no policy {policy!r} is registered; known: {_listed(self.versions)}")
        if isinstance(which, int):
            known = self.versions.get(policy, set())
            return (
                Exact(policy, which) if which in known else Unknown(f"{ref}: no such version was published")
            )
        aliases = self.aliases.get(policy, {})
        alias = which or SERVING
        if alias not in aliases:
            return Unknown(f"policy {policy!r} has no alias {alias!r}; it has: {_listed(aliases)}")
        return UpTo(policy, aliases[alias])


def policy_name(ref: str) -> str:
    """The policy a reference is about, also when the rest of it is malformed."""
    return ref.partition("@")[0].partition("#")[0]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:10]) or "none"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What one replica was last seen to serve; nothing while it does not answer."""

    url: str
    healthy: bool = False
    models: frozenset[str] = frozenset()

    def version_for(self, target: Exact | UpTo) -> int | None:
        """The version this replica would answer with, or None."""
        if policy_at(target.policy, target.version) in self.models:
            return target.version
        if isinstance(target, Exact):
            return None
        return max((v for v in self._versions_of(target.policy) if v < target.version), default=None)

    def _versions_of(self, policy: str) -> Iterable[int]:
        for model in self.models:
            name, at, version = model.rpartition("@")
            if at and name == policy and version.isdecimal():
                yield int(version)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a call goes."""

    replica: str
    policy: str
    version: int

    @property
    def model(self) -> str:
        """``policy@version``, the name replicas know."""
        return policy_at(self.policy, self.version)


def choose(
    target: Exact | UpTo,
    replicas: Iterable[ReplicaState],
    rollout_id: UUID,
    avoid: Set[str] = frozenset(),
) -> Choice | None:
    """The replica for a rollout's call; None when no healthy one serves an acceptable version.

    The best version wins; among replicas that serve it, those not in ``avoid``; among these the rendezvous
    hash of the rollout: its turns meet their prefix cache, and a lost replica moves only its own share.
    """
    able = [(v, r.url) for r in replicas if r.healthy and (v := r.version_for(target)) is not None]
    if not able:
        return None
    best = max(version for version, _ in able)
    urls = [url for version, url in able if version == best]
    preferred = [url for url in urls if url not in avoid] or urls
    return Choice(max(preferred, key=lambda url: rendezvous(rollout_id, url)), target.policy, best)


def rendezvous(rollout_id: UUID, url: str) -> bytes:
    """The weight of a replica for a rollout (highest random weight hashing)."""
    return blake2b(url.encode(), key=rollout_id.bytes, digest_size=8).digest()
