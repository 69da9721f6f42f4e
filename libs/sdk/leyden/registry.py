"""A small client of the registry's HTTP interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from leyden_platform.artifacts import IncompleteArtifact, verify_artifact
from leyden_schemas import cause_id


class RegistryFailed(RuntimeError):
    """The registry could not be reached or refused; the text says why."""


class RegistryClient:
    """Policies, versions and aliases. Every call has a deadline and raises ``RegistryFailed``."""

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s

    def import_version(self, policy: str, folder: Path, *, aliases: Sequence[str] = ()) -> dict[str, Any]:
        """Register a Hugging Face folder as a version; the same folder and content twice is one version."""
        try:
            digest = verify_artifact(folder)
        except (IncompleteArtifact, OSError) as error:
            raise RegistryFailed(f"{folder} cannot be imported: {error}") from error
        body = {
            "version_id": str(cause_id("import", policy, folder.absolute(), digest)),
            "artifact": folder.absolute().as_uri(),
            "aliases": list(aliases),
        }
        return self._call("POST", f"/v1/policies/{policy}/versions", body)

    def move_alias(
        self, policy: str, alias: str, version: int, *, reason: str = "", weight: float | None = None
    ) -> dict[str, Any]:
        """Make an alias name a version, in either direction; as a canary, with a share of the traffic."""
        body = {"version": version, "reason": reason} | ({} if weight is None else {"weight": weight})
        return self._call("PUT", f"/v1/policies/{policy}/aliases/{alias}", body)

    def pin(self, policy: str, version: int, *, holder: str, reason: str = "") -> dict[str, Any]:
        """Keep a version's weights until the same holder unpins it."""
        path = f"/v1/policies/{policy}/versions/{version}/pins/{holder}"
        return self._call("PUT", path, {"reason": reason, "actor": holder})

    def unpin(self, policy: str, version: int, *, holder: str, reason: str = "") -> dict[str, Any]:
        """End that; nothing happens without a pin."""
        path = f"/v1/policies/{policy}/versions/{version}/pins/{holder}"
        return self._call("DELETE", path, {"reason": reason, "actor": holder})

    def import_stored(
        self, policy: str, url: str, digest: str, *, aliases: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Register what lies in an object store as a version; the same content twice is one version."""
        body = {
            "version_id": str(cause_id("import", policy, url, digest)),
            "artifact": url,
            "aliases": list(aliases),
        }
        return self._call("POST", f"/v1/policies/{policy}/versions", body)

    def policies(self) -> dict[str, Any]:
        """Every policy with its aliases."""
        return self._call("GET", "/v1/policies")

    def versions(self, policy: str) -> dict[str, Any]:
        """Every version of a policy."""
        return self._call("GET", f"/v1/policies/{policy}/versions")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = httpx.request(method, self._url + path, json=body, timeout=self._timeout_s)
        except httpx.HTTPError as error:
            raise RegistryFailed(f"the registry at {self._url} did not answer: {error}") from error
        except httpx.InvalidURL as error:
            raise RegistryFailed(f"{self._url} is no URL of a registry: {error}") from error
        if answer.is_error:
            raise RegistryFailed(f"the registry refused {method} {path}: {_reason(answer)}")
        try:
            content: dict[str, Any] = answer.json()
        except ValueError:
            raise RegistryFailed(f"what answers at {self._url} is no registry: it sent no JSON") from None
        return content


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}: {answer.text[:500]}"
