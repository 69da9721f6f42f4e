"""Which versions to hold and which one a name means: decisions over what the registry announced."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from leyden_schemas import (
    AliasMoved,
    ModelMessage,
    ModelPublished,
    WeightsKind,
    parse_policy_ref,
    policy_at,
)

DEFAULT_ALIAS = "serving"
"""What a bare policy name means."""


@dataclass(slots=True)
class Announced:
    """The compacted models topic as a table."""

    published: dict[str, dict[int, ModelPublished]] = field(default_factory=dict)
    aliases: dict[str, dict[str, int]] = field(default_factory=dict)

    def apply(self, message: ModelMessage) -> None:
        """Take in one announcement; the last one of a key counts."""
        match message:
            case ModelPublished():
                self.published.setdefault(message.policy, {})[message.version] = message
            case AliasMoved():
                self.aliases.setdefault(message.policy, {})[message.alias] = message.version

    def forget(self, key: str) -> None:
        """A tombstone: the version or alias of this key is gone. Keys that are neither are ignored."""
        try:
            policy, which = parse_policy_ref(key)
        except ValueError:
            return
        if isinstance(which, int):
            self.published.get(policy, {}).pop(which, None)
        elif which is not None:
            self.aliases.get(policy, {}).pop(which, None)

    def base_of(self, name: str) -> str | None:
        """The ``policy@version`` that an adapter of this name lies over; None for full weights."""
        policy, _, version = name.rpartition("@")
        message = self.published.get(policy, {}).get(int(version)) if version.isdecimal() else None
        if message is None or message.kind is WeightsKind.FULL or message.parent is None:
            return None
        return policy_at(policy, message.parent)

    def wanted(self, policy: str) -> set[int]:
        """Published versions that an alias names, and the newest."""
        versions = self.published.get(policy, {})
        named = set(self.aliases.get(policy, {}).values()) & set(versions)
        return named | {max(versions)} if versions else set()


def to_keep(wanted: Collection[int], loaded: Collection[int]) -> set[int]:
    """The loaded versions that must stay: wanted ones, and the stand-in of each one that is not loaded.

    The stand-in is the newest loaded version that is not newer, which is what the gateway falls back to; so
    a checkpoint that cannot be loaded never takes away what is served.
    """
    kept = set(wanted) & set(loaded)
    for missing in set(wanted) - set(loaded):
        stand_in = older_or_equal(missing, loaded)
        if stand_in is not None:
            kept.add(stand_in)
    return kept


def older_or_equal(version: int, loaded: Iterable[int]) -> int | None:
    """The newest of ``loaded`` that is not newer than ``version``."""
    return max((candidate for candidate in loaded if candidate <= version), default=None)


def resolve(ref: str, loaded: Collection[str], aliases: Mapping[str, Mapping[str, int]]) -> str | None:
    """The loaded name that ``ref`` means, or None.

    An exact name means itself. ``policy#alias``, and ``policy`` for its serving alias, mean the version that
    the alias names, or the newest loaded one that is not newer. A bare policy without that alias means its
    newest loaded version.
    """
    if ref in loaded:
        return ref
    try:
        policy, which = parse_policy_ref(ref)
    except ValueError:
        return None
    if isinstance(which, int):
        return None
    versions = loaded_versions(policy, loaded)
    target = aliases.get(policy, {}).get(which or DEFAULT_ALIAS)
    if target is None:
        newest = max(versions, default=None) if which is None else None
    else:
        newest = older_or_equal(target, versions)
    return None if newest is None else policy_at(policy, newest)


def loaded_versions(policy: str, loaded: Iterable[str]) -> list[int]:
    """Versions of a policy among names of the form ``policy@version``."""
    parts = (name.rpartition("@") for name in loaded)
    return [int(version) for name, at, version in parts if at and name == policy and version.isdecimal()]
