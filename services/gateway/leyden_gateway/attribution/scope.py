"""Whose call is this? Decided from path, credentials, headers and trace context, without a look-up.

Twice: ``attribute`` before the body is read, so that every refusal is cheap and a call whose body never
comes still belongs to somebody; ``refine`` when the body has been parsed, from its model and its user.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from leyden_gateway.attribution.context import Headers, named_by_baggage, named_by_headers
from leyden_gateway.attribution.credentials import looks_signed, presented
from leyden_gateway.attribution.keys import NO_KEYS, ApiKey, ApiKeys, KeyGrant, Scope
from leyden_gateway.attribution.model_names import ModelNames
from leyden_gateway.attribution.named import Source, Sources, named_by, session_or_none
from leyden_gateway.attribution.paths import PathScope
from leyden_gateway.attribution.sessions import place, session_rollout
from leyden_gateway.errors import (
    FeedbackForbidden,
    InvalidRolloutToken,
    MissingToken,
    ScopeMissing,
    WrongRollout,
)
from leyden_platform.tokens import InvalidToken, RolloutClaims
from leyden_schemas import Mode, Split

MAIN_AGENT = "main"
_NO_GRANT = KeyGrant.model_construct()
_NO_AGENT = (MAIN_AGENT, Source.DEFAULT)
_BELOW_BODY = (Source.KEY, Source.TRACE, Source.DEFAULT)
Verify = Callable[[bytes], RolloutClaims]
"""Raises ``InvalidToken``."""


class Attribution(NamedTuple):
    """The rollout, attempt and agent role a completion is recorded under, and in what capacity.

    ``claims`` are what the rollout token allows; production traffic has none, but the name of its ``key``
    and, when it names one, its ``session``. ``policy`` is the reference to serve, empty until the body's
    model is known. (A tuple, because every call makes one or two.)
    """

    rollout_id: UUID
    attempt: int = 1
    agent: str = MAIN_AGENT
    claims: RolloutClaims | None = None
    tenant: str = "default"
    run: str = "default"
    mode: Mode = Mode.PRODUCTION
    session: str | None = None
    key: str | None = None
    policy: str = ""
    rollout_from: Source = Source.DEFAULT
    agent_from: Source = Source.DEFAULT

    @property
    def takes_session(self) -> bool:
        """Whether nothing with more authority than the body has said where the call belongs."""
        return self.rollout_from in _BELOW_BODY


@dataclass(frozen=True, slots=True)
class Rules:
    """What attribution is decided by: who may call, and by what credentials."""

    verify: Verify
    keys: ApiKeys = NO_KEYS
    allow_anonymous: bool = False


def attribute(path: PathScope, headers: Headers, rules: Rules) -> Attribution:
    """The attribution of a call whose body is not known yet.

    A rollout token decides; whatever else names another rollout or attempt is refused. An API key, or
    nobody where anonymous calls are allowed, makes production traffic: equal sessions are one rollout,
    every other call is a rollout of its own. Raises ``MissingToken``, ``InvalidRolloutToken``,
    ``WrongRollout`` or ``InvalidRequest``.
    """
    header = named_by_headers(headers)
    sources = named_by(path, header, named_by_baggage(headers))
    credentials = presented(headers)
    for credential in credentials:
        if key := rules.keys.find(credential):
            _check_scope(key, "completions")
            return _production(sources, headers, key)
        if looks_signed(credential):
            return _scoped(sources, _verified(credential, rules.verify))
    if rules.allow_anonymous and not (path.rollout_id or header.rollout_id):
        return _production(sources, headers, None)
    if credentials and not rules.allow_anonymous:
        raise InvalidRolloutToken("the key sent is neither a rollout token nor an API key of this gateway")
    raise MissingToken(
        "send the rollout token, or an API key, as 'Authorization: Bearer <key>' (the agent's OPENAI_API_KEY)"
    )


def feedback_key(headers: Headers, rules: Rules) -> ApiKey:
    """The API key of someone who may give feedback; never an agent with its token, and nobody anonymous.

    Raises ``MissingToken``, ``InvalidRolloutToken``, ``FeedbackForbidden`` or ``ScopeMissing``.
    """
    credentials = presented(headers)
    for credential in credentials:
        if key := rules.keys.find(credential):
            _check_scope(key, "feedback")
            return key
        if looks_signed(credential):
            _verified(credential, rules.verify)
            raise FeedbackForbidden("a rollout token cannot give feedback; use an API key with that scope")
    if credentials:
        raise InvalidRolloutToken("the key sent is not an API key of this gateway")
    raise MissingToken("send an API key as 'Authorization: Bearer <key>'; nobody gives feedback without one")


def refine(attribution: Attribution, model: str | None, user: str | None, names: ModelNames) -> Attribution:
    """The attribution once the body names a model and, see ``body.session_of``, perhaps a session.

    A token's or a key's policy stays; a role or a session found earlier stays too.
    """
    known = attribution.policy or None
    meaning = names.meaning(model, known) if model else None
    if meaning and not known:
        attribution = attribution._replace(policy=meaning.policy)
    if meaning and meaning.agent and attribution.agent_from is Source.DEFAULT:
        attribution = attribution._replace(agent=meaning.agent, agent_from=Source.BODY)
    if attribution.takes_session and (session := session_or_none(user)):
        rollout_id = session_rollout(attribution.tenant, attribution.run, session)
        attribution = attribution._replace(session=session, rollout_id=rollout_id, rollout_from=Source.BODY)
    return attribution


def _check_scope(key: ApiKey, scope: Scope) -> None:
    if scope not in key.grant.scopes:
        raise ScopeMissing(f"the API key {key.name!r} is not for {scope}; its scopes are set in api_keys")


def _agent(sources: Sources) -> tuple[str, Source]:
    for source, named in sources:
        if named.agent:
            return named.agent, source
    return _NO_AGENT


def _verified(token: bytes, verify: Verify) -> RolloutClaims:
    try:
        return verify(token)
    except InvalidToken as error:
        raise InvalidRolloutToken(str(error)) from None


def _scoped(sources: Sources, claims: RolloutClaims) -> Attribution:
    for source, named in sources:
        if named.rollout_id is not None and named.rollout_id != claims.rollout_id:
            raise WrongRollout(f"this token belongs to another rollout than the one the {source} names")
        if named.attempt is not None and named.attempt != claims.attempt:
            raise WrongRollout(
                f"this token belongs to attempt {claims.attempt}; the {source} names {named.attempt}"
            )
    agent, agent_from = _agent(sources)
    return Attribution(
        claims.rollout_id,
        claims.attempt,
        agent,
        claims,
        claims.tenant,
        claims.run,
        Mode.TRAINING if claims.split is Split.TRAIN else Mode.EVALUATION,
        policy=claims.policy,
        rollout_from=Source.TOKEN,
        agent_from=agent_from,
    )


def _production(sources: Sources, headers: Headers, key: ApiKey | None) -> Attribution:
    grant = key.grant if key else _NO_GRANT
    where = place(sources, headers, key)
    agent, agent_from = _agent(sources)
    return Attribution(
        where.rollout_id or session_rollout(grant.tenant, grant.run, where.session),
        where.attempt,
        agent,
        tenant=grant.tenant,
        run=grant.run,
        session=where.session,
        key=key.name if key else None,
        policy=grant.policy or "",
        rollout_from=where.found,
        agent_from=agent_from,
    )
