"""Whose call is this? Decided from the path and the bearer token alone, without a look-up."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from leyden_gateway.errors import InvalidRolloutToken, MissingToken, WrongRollout
from leyden_platform.tokens import InvalidToken, RolloutClaims
from leyden_schemas import cause_id, new_id

MAIN_AGENT = "main"
Verify = Callable[[str], RolloutClaims]


@dataclass(frozen=True, slots=True)
class PathScope:
    """What the path of a call names; ``/v1/…`` names nothing."""

    rollout_id: UUID | None = None
    attempt: int | None = None
    agent: str = MAIN_AGENT


@dataclass(frozen=True, slots=True)
class Attribution:
    """The rollout, attempt and agent role a completion is recorded under.

    ``claims`` are what the token allows; a call without a token has none and is its own session.
    """

    rollout_id: UUID
    attempt: int
    agent: str
    claims: RolloutClaims | None = None

    @property
    def tenant(self) -> str:
        """The token's tenant."""
        return self.claims.tenant if self.claims else "default"

    @property
    def run(self) -> str:
        """The token's run."""
        return self.claims.run if self.claims else "default"


def attribute(
    path: PathScope,
    *,
    authorization: str | None,
    session: str | None,
    verify: Verify,
    allow_anonymous: bool,
) -> Attribution:
    """The attribution of a call.

    A path that names a rollout always needs that rollout's token. Without one, and where anonymous calls
    are allowed, equal ``session`` values are one rollout and every other call is a rollout of its own.
    Raises ``MissingToken``, ``InvalidRolloutToken`` or ``WrongRollout``.
    """
    token = bearer_token(authorization)
    if token is not None and (looks_signed(token) or not allow_anonymous):
        return _scoped(path, _verified(token, verify))
    if not allow_anonymous or path.rollout_id is not None:
        raise MissingToken(
            "send the rollout token as 'Authorization: Bearer <token>' (OPENAI_API_KEY of the agent)"
        )
    rollout_id = cause_id("session", session) if session else new_id()
    return Attribution(rollout_id, attempt=1, agent=path.agent)


def bearer_token(authorization: str | None) -> str | None:
    """The credentials of a bearer ``Authorization`` header; None when there are none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def looks_signed(token: str) -> bool:
    """Whether the token has the three parts of a JWT, unlike the placeholder keys that clients demand."""
    return token.count(".") == 2


def _verified(token: str, verify: Verify) -> RolloutClaims:
    try:
        return verify(token)
    except InvalidToken as error:
        raise InvalidRolloutToken(str(error)) from None


def _scoped(path: PathScope, claims: RolloutClaims) -> Attribution:
    if path.rollout_id not in (None, claims.rollout_id):
        raise WrongRollout("this token belongs to another rollout than the one the path names")
    if path.attempt not in (None, claims.attempt):
        raise WrongRollout(f"this token belongs to attempt {claims.attempt}; the path names {path.attempt}")
    return Attribution(claims.rollout_id, claims.attempt, path.agent, claims)
