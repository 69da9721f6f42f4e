"""What the admin routes show and move: small views, so that they need to know no concrete part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from leyden_gateway.control.calls import Calls
from leyden_gateway.control.limits import TenantLimiter
from leyden_gateway.control.pause import Pause
from leyden_gateway.recording.spool import Spool
from leyden_gateway.routing.choice import PolicyTable
from leyden_schemas import JsonObject


class Described(Protocol):
    """Something an operator can look at."""

    def describe(self) -> object:
        """Its state now, of plain values and dataclasses."""
        ...


class DrainableReplicas(Protocol):
    """The replicas, by base URL."""

    def describe(self) -> Sequence[object]:
        """Every replica."""
        ...

    def drain(self, url: str) -> None:
        """Send no new calls there. Raises ``LookupError``."""
        ...

    def undrain(self, url: str) -> None:
        """Send calls there again. Raises ``LookupError``."""
        ...


class HasPolicies(Protocol):
    """Whatever follows the models topic."""

    table: PolicyTable


@dataclass(frozen=True, slots=True)
class PolicyView:
    """The policy table as an operator reads it."""

    models: HasPolicies

    def describe(self) -> list[JsonObject]:
        """Every policy with its versions, aliases and shares of traffic."""
        table = self.models.table
        return [
            {
                "policy": policy,
                "versions": sorted(table.versions.get(policy, ())),
                "aliases": table.aliases.get(policy, {}),
                "weights": table.weights.get(policy, {}),
            }
            for policy in sorted(table.versions.keys() | table.aliases.keys())
        ]


@dataclass(frozen=True, slots=True)
class SpoolView:
    """What waits on disk for Kafka; a gateway without a spool has none."""

    spool: Spool | None = None

    def describe(self) -> JsonObject:
        """Whether there is a spool, and how much is in it."""
        if self.spool is None:
            return {"enabled": False}
        return {"enabled": True, "records": self.spool.depth, "bytes": self.spool.size}


@dataclass(frozen=True, slots=True)
class Controls:
    """Everything the admin routes work with."""

    replicas: DrainableReplicas
    policies: Described
    spool: Described
    calls: Calls
    limiter: TenantLimiter
    pause: Pause
