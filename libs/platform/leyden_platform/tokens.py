"""Tokens scoped to one attempt of one rollout: what an agent holds instead of a shared key.

The runner mints them and the gateway verifies them, so the gateway needs no look-up to attribute a call.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from uuid import UUID

import jwt
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from leyden_schemas import RolloutAssigned, Sampling, Split

_ALGORITHM = "HS256"
_ISSUER = "leyden-runner"


class TokenSettings(BaseSettings):
    """The secret shared by runner and gateway (``LEYDEN_TOKEN_…``)."""

    model_config = SettingsConfigDict(env_prefix="LEYDEN_TOKEN_", frozen=True, extra="ignore")

    secret: SecretStr = Field(
        min_length=32, description="At least 32 characters; rotate by redeploying both."
    )


class InvalidToken(ValueError):
    """The token is forged, expired or not ours; the text says which."""


class RolloutClaims(BaseModel):
    """What a token allows: completions of one attempt, under these sampling rules, until it expires."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rollout_id: UUID
    attempt: int = Field(ge=1)
    tenant: str
    run: str
    policy: str = Field(description="policy, policy@version or policy#alias")
    split: Split
    sampling: Sampling
    max_completions: int
    max_tokens: int | None = Field(
        default=None, ge=1, description="Prompt and sampled tokens of the whole attempt; None for no limit."
    )
    traceparent: str | None = None

    @classmethod
    def of(cls, assigned: RolloutAssigned, attempt: int, traceparent: str | None = None) -> Self:
        """The claims of one attempt at an assigned rollout."""
        return cls(
            rollout_id=assigned.rollout_id,
            attempt=attempt,
            tenant=assigned.tenant,
            run=assigned.run,
            policy=assigned.task.policy,
            split=assigned.task.split,
            sampling=assigned.task.sampling,
            max_completions=assigned.task.limits.max_completions,
            max_tokens=assigned.task.limits.max_tokens,
            traceparent=traceparent,
        )


def mint(claims: RolloutClaims, secret: SecretStr, *, ttl_s: float) -> str:
    """A signed token that expires ``ttl_s`` seconds from now."""
    now = datetime.now(UTC)
    payload: dict[str, Any] = {
        "iss": _ISSUER,
        "iat": now,
        "exp": now + timedelta(seconds=ttl_s),
        "leyden": claims.model_dump(mode="json"),
    }
    return jwt.encode(payload, secret.get_secret_value(), algorithm=_ALGORITHM)


class Verified(NamedTuple):
    """A valid token's claims, and the Unix time at which it stops being valid."""

    claims: RolloutClaims
    expires_at: float


def verify(token: str, secret: SecretStr) -> RolloutClaims:
    """The claims of a valid token. Raises ``InvalidToken``."""
    return verify_until(token, secret).claims


def verify_until(token: str, secret: SecretStr) -> Verified:
    """The claims of a valid token, for callers that remember them. Raises ``InvalidToken``.

    When it was issued decides nothing: a runner whose clock is ahead of ours is not a forger.
    """
    try:
        payload = jwt.decode(
            token,
            secret.get_secret_value(),
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            leeway=5,
            options={"require": ["exp", "iss"], "verify_iat": False},
        )
        return Verified(RolloutClaims.model_validate(payload["leyden"]), float(payload["exp"]))
    except jwt.ExpiredSignatureError:
        raise InvalidToken("the rollout token has expired: its attempt ran past its deadline") from None
    except (jwt.InvalidTokenError, KeyError, ValidationError) as error:
        raise InvalidToken(f"not a valid rollout token: {error}") from None
