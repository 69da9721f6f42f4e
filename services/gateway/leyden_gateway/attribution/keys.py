"""Static API keys of production traffic: whose they are, found by digest, so that no key is kept in clear."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from leyden_schemas.base import Name
from leyden_schemas.tasks import PolicyRef

Scope = Literal["completions", "feedback"]
MIN_LENGTH = 16
"""Shorter keys can be guessed."""


class BadApiKey(ValueError):
    """A key that is configured but cannot be used; the text says which and why."""


class KeyGrant(BaseModel):
    """One entry of ``api_keys``: where its key is found, and what its calls are recorded under."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_env: str | None = Field(default=None, description="The environment variable that holds the key.")
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Or the key's SHA-256, in hexadecimal."
    )
    tenant: Name = "default"
    run: Name = "default"
    policy: PolicyRef | None = Field(
        default=None, description="What every model name of its calls resolves to; none: the name itself."
    )
    session: Literal["key"] | None = Field(
        default=None, description='"key": calls that name no session are all one; none: one each.'
    )
    rollouts: bool = Field(
        default=False, description="Whether its calls may name the rollout that they are recorded under."
    )
    scopes: frozenset[Scope] = Field(
        default=frozenset({"completions", "feedback"}),
        min_length=1,
        description='What it is for. The key of an agent that must not judge itself has ["completions"].',
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.key_env is None) == (self.sha256 is None):
            raise ValueError('give either "key_env" or "sha256"')
        return self

    def digest(self, name: str, environ: Mapping[str, str]) -> bytes:
        """The SHA-256 of the key. Raises ``BadApiKey``."""
        if self.sha256 is not None:
            return bytes.fromhex(self.sha256)
        key = environ.get(self.key_env or "", "")
        if len(key) < MIN_LENGTH or not key.isascii() or re.search(r"\s", key):
            raise BadApiKey(
                f"api_keys {name!r}: the environment variable {self.key_env} must hold the key: "
                f"at least {MIN_LENGTH} ASCII characters without blanks"
            )
        return sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that was recognised: its name in the settings, and what it grants."""

    name: str
    grant: KeyGrant


class ApiKeys:
    """Finds a presented key by its digest. The digest is compared, never the key, so timing tells nothing."""

    def __init__(self, grants: Mapping[str, KeyGrant], environ: Mapping[str, str]) -> None:
        """Raises ``BadApiKey`` when a key is missing, too short, or given to two names."""
        self._keys: dict[bytes, tuple[bytes, ApiKey]] = {}
        for name, grant in grants.items():
            digest = grant.digest(name, environ)
            if digest in self._keys:
                raise BadApiKey(f"api_keys {name!r} and {self._keys[digest][1].name!r} are the same key")
            self._keys[digest] = digest, ApiKey(name, grant)

    def find(self, presented: bytes) -> ApiKey | None:
        """Whose key this is; None when it is nobody's."""
        if not self._keys:
            return None
        digest = sha256(presented).digest()
        found = self._keys.get(digest)
        return found[1] if found and compare_digest(found[0], digest) else None


NO_KEYS = ApiKeys({}, {})
