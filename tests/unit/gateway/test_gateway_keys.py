"""API keys and model aliases as they are configured."""

from hashlib import sha256

import pytest
from pydantic import SecretStr, ValidationError

from leyden_gateway.attribution.gatekeeper import Gatekeeper
from leyden_gateway.attribution.keys import ApiKeys, BadApiKey, KeyGrant
from leyden_gateway.attribution.named import NOTHING
from leyden_gateway.attribution.settings import AttributionSettings
from leyden_platform.tokens import TokenSettings

KEY = "sk-0123456789abcdef"
DIGEST = sha256(KEY.encode()).hexdigest()


def test_a_key_is_found_by_either_source() -> None:
    for grant in (KeyGrant(key_env="SHOP_KEY"), KeyGrant(sha256=DIGEST)):
        keys = ApiKeys({"shop": grant}, {"SHOP_KEY": KEY})
        found = keys.find(KEY.encode())
        assert found is not None
        assert found.name == "shop"
        assert keys.find(KEY.encode() + b"x") is None
        assert KEY not in repr(vars(keys))


@pytest.mark.parametrize("value", [None, "short", "with a blank in it", "0123456789abcdeé"])
def test_a_missing_or_weak_key_stops_the_start(value: str | None) -> None:
    environ = {} if value is None else {"SHOP_KEY": value}
    with pytest.raises(BadApiKey, match="api_keys 'shop': the environment variable SHOP_KEY") as error:
        ApiKeys({"shop": KeyGrant(key_env="SHOP_KEY")}, environ)
    assert value is None or value not in str(error.value)


def test_one_key_has_one_name() -> None:
    with pytest.raises(BadApiKey, match="'b' and 'a' are the same key"):
        ApiKeys({"a": KeyGrant(sha256=DIGEST), "b": KeyGrant(key_env="B")}, {"B": KEY})


@pytest.mark.parametrize(
    ("grant", "hint"),
    [
        ("{}", 'give either "key_env" or "sha256"'),
        ('{"key_env": "A", "sha256": "' + DIGEST + '"}', "give either"),
        ('{"sha256": "abc"}', "pattern"),
        ('{"key_env": "A", "tennant": "x"}', "Extra inputs"),
        ('{"key_env": "A", "policy": "calculator@"}', "version number"),
        ('{"key_env": "A", "session": "user"}', "'key'"),
    ],
)
def test_bad_grants_are_explained(monkeypatch: pytest.MonkeyPatch, grant: str, hint: str) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_API_KEYS", '{"shop": ' + grant + "}")
    with pytest.raises(ValidationError, match=hint):
        AttributionSettings()


@pytest.mark.parametrize("target", ["", "calculator@x", "calculator/", "calculator/the critic", "a/b/c"])
def test_bad_aliases_are_explained(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_MODEL_ALIASES", '{"gpt": "' + target + '"}')
    with pytest.raises(ValidationError, match=r"for example|write policy"):
        AttributionSettings()


def test_a_gatekeeper_made_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", KEY)
    monkeypatch.setenv("LEYDEN_GATEWAY_API_KEYS", '{"shop": {"key_env": "SHOP_KEY", "tenant": "shop"}}')
    monkeypatch.setenv("LEYDEN_GATEWAY_MODEL_ALIASES", '{"gpt-4o": "calculator/critic"}')
    token = TokenSettings(secret=SecretStr("x" * 32))
    gatekeeper = Gatekeeper(AttributionSettings(), token, allow_anonymous=False)
    found = gatekeeper.attribute(NOTHING, {b"authorization": f"Bearer {KEY}".encode()})
    found = gatekeeper.refine(found, {"model": "gpt-4o", "user": "alice"})
    assert (found.tenant, found.policy, found.agent, found.session) == (
        "shop",
        "calculator",
        "critic",
        "alice",
    )
    assert gatekeeper.refine(found, {"model": 7}) == found
