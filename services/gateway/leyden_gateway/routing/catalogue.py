"""The models a caller may name, as OpenAI's ``/v1/models`` lists them."""

from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.routing.choice import SERVING, PolicyTable, ReplicaState, policy_name
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.replicas import Replicas
from leyden_schemas import JsonObject, policy_at, policy_ref


class Catalogue:
    """Lists from the tables as they are now."""

    def __init__(self, models: ModelsTable, replicas: Replicas) -> None:
        self._models, self._replicas = models, replicas

    def models(self, whose: Attribution) -> list[JsonObject]:
        """What ``whose`` may call: everything served, or its token's policy only."""
        only = policy_name(whose.claims.policy) if whose.claims else None
        names = served_names(self._models.table, self._replicas.states(), only)
        return [{"id": name, "object": "model", "created": 0, "owned_by": "leyden"} for name in names]


def served_names(table: PolicyTable, replicas: list[ReplicaState], only: str | None) -> list[str]:
    """Policies with a serving alias, their aliases, and every version loaded somewhere."""
    loaded = {model for state in replicas if state.healthy for model in state.models}
    names = set()
    for policy, versions in table.versions.items():
        if only not in (None, policy):
            continue
        aliases = table.aliases.get(policy, {})
        names |= {policy_ref(policy, alias) for alias in aliases} | (
            {policy} if SERVING in aliases else set()
        )
        names |= loaded & {policy_at(policy, version) for version in versions}
    return sorted(names)
