"""The models a caller may name, as ``/v1/models`` lists them for OpenAI's and Anthropic's clients at once."""

from collections.abc import Mapping
from types import MappingProxyType

from leyden_gateway.attribution.model_names import parse_meaning
from leyden_gateway.attribution.scope import Attribution
from leyden_gateway.errors import ModelNotFound
from leyden_gateway.routing.choice import PolicyTable, ReplicaState, policy_name
from leyden_gateway.routing.externals import Externals
from leyden_gateway.routing.models_table import ModelsTable
from leyden_gateway.routing.replicas import Replicas
from leyden_gateway.routing.split import SERVING
from leyden_schemas import JsonObject, policy_at, policy_ref


class Catalogue:
    """Lists from the tables as they are now."""

    def __init__(
        self,
        models: ModelsTable,
        replicas: Replicas,
        externals: Externals,
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """``aliases`` are other names that calls may give, and what they stand for."""
        self._models, self._replicas, self._externals = models, replicas, externals
        self._aliases = {name: parse_meaning(target).policy for name, target in aliases.items()}

    def models(self, whose: Attribution) -> list[JsonObject]:
        """What ``whose`` may call: everything served, or its token's policy only, and external models."""
        only = policy_name(whose.claims.policy) if whose.claims else None
        names = served_names(self._models.table, self._replicas.states(), only)
        others = [external.name for external in self._externals.open_to(whose.tenant)]
        taken = {*names, *others}
        names += sorted(alias for alias, ref in self._aliases.items() if ref in taken and alias not in taken)
        return [_model(name, "leyden") for name in names] + [_model(name, "external") for name in others]

    def listing(self, whose: Attribution) -> JsonObject:
        """All of them, as one page."""
        models = self.models(whose)
        ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {}
        return {"object": "list", "data": models, "has_more": False, **ends}

    def one(self, whose: Attribution, name: str) -> JsonObject:
        """One of them. Raises ``ModelNotFound``."""
        models = {str(model["id"]): model for model in self.models(whose)}
        if name not in models:
            raise ModelNotFound(
                f"no model {name[:200]!r}; there are: {', '.join(list(models)[:10]) or 'none'}"
            )
        return models[name]


def _model(name: str, owner: str) -> JsonObject:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": owner,
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
    }


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
