"""Settings from the environment."""

import pytest
from pydantic import SecretStr, ValidationError

from leyden_gateway.settings import GatewaySettings
from leyden_platform.tokens import TokenSettings

TOKEN = TokenSettings(secret=SecretStr("x" * 32))


@pytest.mark.parametrize(
    "value", ["http://a:1, http://b:2/", '["http://a:1", "http://b:2"]', '["http://a:1/","http://b:2/"]']
)
def test_replicas_are_a_list_either_way(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_REPLICAS", value)
    assert GatewaySettings(token=TOKEN).replicas == ("http://a:1", "http://b:2")


@pytest.mark.parametrize(
    ("value", "hint"), [("inference:8001", "http://inference:8001"), ("http://a,http://a", "named twice")]
)
def test_bad_replicas_are_explained(monkeypatch: pytest.MonkeyPatch, value: str, hint: str) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_REPLICAS", value)
    with pytest.raises(ValidationError, match=hint):
        GatewaySettings(token=TOKEN)


def test_the_secret_is_read_from_the_shared_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_TOKEN_SECRET", "y" * 32)
    assert GatewaySettings().token.secret.get_secret_value() == "y" * 32
