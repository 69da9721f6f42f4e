"""Says whose call it is, or refuses it, by the gateway's settings."""

import os
from collections.abc import Callable, Mapping

from leyden_gateway.attribution.body import session_of
from leyden_gateway.attribution.context import Headers
from leyden_gateway.attribution.keys import ApiKey, ApiKeys
from leyden_gateway.attribution.model_names import ModelNames
from leyden_gateway.attribution.paths import PathScope
from leyden_gateway.attribution.scope import Attribution, Rules, attribute, feedback_key, refine
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_gateway.attribution.verified import RecentlyVerified
from leyden_platform.tokens import TokenSettings, verify_until


class Gatekeeper:
    """The rules of attribution, made once."""

    def __init__(
        self,
        settings: AttributionSettings,
        token: TokenSettings,
        *,
        allow_anonymous: bool,
        known_policy: Callable[[str], bool] = lambda _policy: False,
    ) -> None:
        """``known_policy`` tells the policy of a literal ``policy/agent`` from other names with slashes.

        Raises ``BadApiKey``.
        """
        self._rules = Rules(
            RecentlyVerified(lambda presented: verify_until(presented, token.secret)),
            ApiKeys(settings.api_keys, os.environ),
            allow_anonymous,
        )
        self._names = ModelNames(settings.model_aliases, known_policy)

    def attribute(self, path: PathScope, headers: Headers) -> Attribution:
        """Whose call it is, before its body is read. Raises what ``scope.attribute`` raises."""
        return attribute(path, headers, self._rules)

    def feedback_key(self, headers: Headers) -> ApiKey:
        """Who gives feedback. Raises what ``scope.feedback_key`` raises."""
        return feedback_key(headers, self._rules)

    def refine(self, attribution: Attribution, request: Mapping[str, object]) -> Attribution:
        """The same with what the body names: its model's policy and role, its session."""
        model = request.get("model")
        session = session_of(request) if attribution.takes_session else None
        return refine(attribution, model if isinstance(model, str) else None, session, self._names)
