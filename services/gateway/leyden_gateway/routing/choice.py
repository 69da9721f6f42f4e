"""Which version answers a policy reference, and which replica: pure decisions over two tables.

The policy table is what the registry announced, the replica states are what is really loaded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leyden_gateway.metrics import Served
from leyden_gateway.routing.split import SERVING, canaries
from leyden_schemas import AliasMoved, ModelPublished, parse_policy_ref, policy_at

if TYPE_CHECKING:
    from leyden_gateway.routing.lane import Slot


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
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    """Shares of the bare policy's traffic, by alias."""

    def apply(self, event: ModelPublished | AliasMoved) -> None:
        """Take in one announcement; a repeat changes nothing."""
        match event:
            case ModelPublished():
                self.versions.setdefault(event.policy, set()).add(event.version)
            case AliasMoved():
                self.aliases.setdefault(event.policy, {})[event.alias] = event.version
                self._weigh(event.policy, event.alias, event.weight)

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
            self._weigh(policy, which, None)

    def _weigh(self, policy: str, alias: str, weight: float | None) -> None:
        weights = self.weights.setdefault(policy, {})
        weights.pop(alias, None)
        if weight is not None:
            weights[alias] = weight

    def canaries(self, ref: str) -> tuple[tuple[float, Exact], ...]:
        """How the traffic of a bare policy is split (see ``split``); any other reference is not."""
        weights = self.weights.get(ref)
        if not weights:
            return ()
        parts = canaries(self.aliases.get(ref, {}), weights)
        return tuple((end, Exact(ref, version)) for end, version in parts)

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


def best(target: Exact | UpTo, replicas: Iterable[ReplicaState]) -> tuple[int, list[str]] | None:
    """The best version that answers ``target`` and the healthy replicas that serve it; None without any."""
    able = [(v, r.url) for r in replicas if r.healthy and (v := r.version_for(target)) is not None]
    if not able:
        return None
    newest = max(version for version, _ in able)
    return newest, [url for version, url in able if version == newest]


@dataclass(slots=True)
class Choice:
    """Where a call goes. An external server has no version, and its policy is ``external:<name>``.

    Not to be changed; it is not frozen only because one is made for every call, and freezing costs 2 us.
    """

    replica: str
    policy: str
    version: int | None
    slot: "Slot | None" = field(default=None, compare=False, repr=False)
    """The call's room on the way there."""

    @property
    def served(self) -> Served:
        """Who answers, as metrics name it."""
        return Served.by(self.policy, self.version, self.replica)

    @property
    def model(self) -> str:
        """``policy@version``, the name replicas know; ``external:<name>`` of an external server."""
        return self.policy if self.version is None else policy_at(self.policy, self.version)
