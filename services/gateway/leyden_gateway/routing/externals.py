"""Models on servers that are not Leyden's: called by name, with their own keys, recorded, never trained."""

from collections.abc import Callable, Mapping

from leyden_gateway.errors import InvalidRequest
from leyden_gateway.routing.lane import Lane
from leyden_gateway.routing.plan import Plan
from leyden_gateway.routing.settings import ExternalSettings, RoutingSettings, Speaks

PREFIX = "external:"
"""Begins the ``policy`` of what such a model answered."""
_SPOKEN_AT: Mapping[str, Speaks] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}


class External:
    """One such model."""

    def __init__(self, name: str, settings: ExternalSettings, lane: Lane) -> None:
        self.name, self.lane = name, lane
        self.base_url = settings.base_url
        self.model = settings.model or name
        self.begin_timeout_s = settings.begin_timeout_s
        self.policy = PREFIX + name
        """What records and answers call it."""
        self._settings = settings

    def speaks(self, protocol: Speaks) -> bool:
        """Whether the server takes this protocol as it is."""
        return protocol in self._settings.protocols

    def open_to(self, tenant: str) -> bool:
        """Whether the tenant may use it."""
        return not self._settings.tenants or tenant in self._settings.tenants

    def path(self, path: str) -> str:
        """Where below ``base_url`` the gateway's ``/v1/…`` is."""
        return path.removeprefix("/v1")

    def check(self, path: str) -> None:
        """Raises ``InvalidRequest`` when the server does not speak the protocol of ``path``."""
        protocol = _SPOKEN_AT.get(path)
        if protocol is None or not self.speaks(protocol):
            raise InvalidRequest(
                f"the model {self.name!r} is not served at {path}; its server speaks "
                f"{', '.join(self._settings.protocols)} (LEYDEN_GATEWAY_EXTERNALS)"
            )

    def headers(self) -> dict[str, str]:
        """What every call carries, the key included; never to be logged or recorded."""
        headers = dict(self._settings.headers)
        if key := self._settings.key:
            name, value = (self._settings.key_header or "authorization").lower(), key.get_secret_value()
            headers[name] = f"Bearer {value}" if name == "authorization" else value
        return headers

    def plan(self) -> Plan:
        """Its one server."""
        here = (self.lane,)
        return Plan(self.policy, None, here, here if self.lane.usable else ())


class Externals:
    """All of them, by name."""

    def __init__(self, settings: RoutingSettings, on_change: Callable[[], None]) -> None:
        self._known: Mapping[str, External] = {
            name: External(
                name,
                external,
                Lane(
                    external.base_url,
                    limit=external.max_concurrency,
                    rules=settings.breaker_rules(),
                    on_change=on_change,
                    name=PREFIX + name,
                ),
            )
            for name, external in settings.externals.items()
        }

    def find(self, model: object, tenant: str = "default") -> External | None:
        """The external model of that name, if the tenant may use it."""
        external = self._known.get(model) if isinstance(model, str) else None
        return external if external is not None and external.open_to(tenant) else None

    def open_to(self, tenant: str) -> list[External]:
        """Those the tenant may use, by name."""
        return [self._known[name] for name in sorted(self._known) if self._known[name].open_to(tenant)]
