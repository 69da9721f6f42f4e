"""The registry over HTTP: where a run begins, and where its versions are announced."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, Field

from leyden_platform.messaging import Unavailable
from leyden_platform.telemetry import trace_headers
from leyden_schemas import WeightsKind


class RegistryUnavailable(Unavailable):
    """The registry did not answer, or answered that it cannot right now."""


class PolicyMissing(RegistryUnavailable):
    """The registry does not know the policy yet."""


class RegistryRefused(RuntimeError):
    """The registry answered that the request is wrong; trying again would not help."""


class Version(BaseModel):
    """What the registry tells about a version; other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int
    artifact: str
    digest: str
    kind: WeightsKind = WeightsKind.FULL
    parent: int | None = None


class _Policy(BaseModel):
    model_config = ConfigDict(extra="ignore")

    aliases: dict[str, int] = Field(default_factory=dict)


class Registration(BaseModel):
    """A version to register. ``version_id`` makes repeating it harmless."""

    version_id: UUID
    artifact: str
    kind: WeightsKind = WeightsKind.FULL
    parent: int | None
    step: int
    run: str
    tenant: str
    metrics: Mapping[str, Any]
    aliases: list[str]


class RegistryClient:
    """The part of the registry's API a learner needs. Who made the HTTP client closes it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def latest(self, policy: str) -> Version:
        """The version that alias ``latest`` names. Raises ``PolicyMissing`` or ``RegistryUnavailable``."""
        number = (await self.aliases(policy)).get("latest")
        if number is None:
            raise PolicyMissing(f"policy {policy} has no alias latest yet")
        return await self.version(policy, number)

    async def version(self, policy: str, number: int) -> Version:
        """One version. Raises ``PolicyMissing`` or ``RegistryUnavailable``."""
        return Version.model_validate(await self._json("GET", f"/v1/policies/{policy}/versions/{number}"))

    async def aliases(self, policy: str) -> dict[str, int]:
        """Alias to version. Raises ``PolicyMissing`` or ``RegistryUnavailable``."""
        return _Policy.model_validate(await self._json("GET", f"/v1/policies/{policy}")).aliases

    async def register(self, policy: str, registration: Registration) -> int:
        """The number of the version, new or known. Raises ``RegistryUnavailable`` or ``RegistryRefused``."""
        body = registration.model_dump(mode="json")
        answer = await self._json("POST", f"/v1/policies/{policy}/versions", body)
        return int(answer["version"])

    async def pin(self, policy: str, version: int, holder: str, reason: str) -> None:
        """Keep a version for as long as the holder is not unpinned. Raises ``RegistryUnavailable``.

        That a version was retired meanwhile is unavailability too: another is the latest by now.
        """
        path, body = (
            f"/v1/policies/{policy}/versions/{version}/pins/{holder}",
            {"reason": reason, "actor": holder},
        )
        response = await self._answer("PUT", path, body)
        if response.status_code == httpx.codes.CONFLICT:
            raise RegistryUnavailable(response.text[:500])
        _json_of("PUT", path, response)

    async def retire(self, policy: str, version: int, *, actor: str, reason: str) -> str | None:
        """Let a version's weights go; what needs them when the registry refuses.

        Raises ``RegistryUnavailable`` or ``RegistryRefused``.
        """
        path, body = f"/v1/policies/{policy}/versions/{version}/retire", {"reason": reason, "actor": actor}
        response = await self._answer("POST", path, body)
        if response.status_code == httpx.codes.CONFLICT:
            try:
                return str(response.json()["error"].get("reason", "in_use"))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise RegistryRefused(f"POST {path}: {response.text[:500]}") from None
        _json_of("POST", path, response)
        return None

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return _json_of(method, path, await self._answer(method, path, body))

    async def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            return await self._http.request(method, path, json=body, headers=trace_headers())
        except httpx.RequestError as error:
            where = f"{self._http.base_url} (LEYDEN_LEARNER_REGISTRY_URL)"
            raise RegistryUnavailable(f"no answer from {where}: {error or type(error).__name__}") from error


def _json_of(method: str, path: str, response: httpx.Response) -> dict[str, Any]:
    text = f"{method} {path}: {response.status_code}: {response.text[:500]}"
    if response.is_success:
        try:
            answer: dict[str, Any] = response.json()
        except ValueError:  # of something in between that says 200 for a registry that is away
            raise RegistryUnavailable(f"{text}, which is not JSON") from None
        return answer
    if response.status_code == httpx.codes.NOT_FOUND and method == "GET":
        raise PolicyMissing(text)
    if response.is_server_error or response.status_code in (
        httpx.codes.REQUEST_TIMEOUT,
        httpx.codes.TOO_MANY_REQUESTS,
        httpx.codes.NOT_FOUND,
    ):
        raise RegistryUnavailable(text)
    raise RegistryRefused(text)
