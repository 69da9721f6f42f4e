"""Whether a version's weights may be deleted: never while something may still serve, or go on from, them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from leyden_registry.values import AliasMove, Version


class Use(StrEnum):
    """Why a version must stay."""

    ALIAS = "alias"
    PINNED = "pinned"
    NEWEST = "newest"
    BASE = "base"
    RECENT = "recent"


@dataclass(frozen=True, slots=True)
class Uses:
    """All that may hold a version, read in one transaction."""

    newest: int
    places: Mapping[str, AliasMove]
    holders: Collection[str]
    adapters: Collection[int]
    """Adapters over it, not retired."""
    left_at: datetime
    """When the last alias left it, or it was replaced as the newest."""
    now: datetime


def in_use(version: Version, uses: Uses, *, grace_s: float) -> tuple[Use, str] | None:
    """Why the version stays, or None when its weights may go.

    Servers load what an alias names and the newest version, and hear of a change late: a version that was one
    of those within ``grace_s`` may be in the middle of a swap.
    """
    name = f"{version.policy}@{version.version}"
    if named := [alias for alias, place in uses.places.items() if place.version == version.version]:
        return Use.ALIAS, f"{name} is named by {', '.join(sorted(named))}; move it first"
    if uses.holders:
        return Use.PINNED, f"{name} is pinned by {', '.join(sorted(uses.holders))}; unpin it first"
    if version.version == uses.newest:
        return Use.NEWEST, f"{name} is the newest version, which every server loads"
    if uses.adapters:
        adapters = ", ".join(f"{version.policy}@{number}" for number in sorted(uses.adapters))
        return Use.BASE, f"{name} is what the adapters {adapters} apply to; retire them first"
    idle = uses.now - uses.left_at
    if idle < timedelta(seconds=grace_s):
        return Use.RECENT, (
            f"{name} was served until {idle.total_seconds():.0f} s ago; it stays for {grace_s:g} s "
            "(LEYDEN_REGISTRY_RETIRE_AFTER_S)"
        )
    return None
