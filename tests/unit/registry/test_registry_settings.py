"""The registry's environment."""

import pytest

from leyden_registry.settings import RegistrySettings


def test_an_empty_variable_is_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_REGISTRY_ARTIFACT_ROOT", "")
    monkeypatch.setenv("LEYDEN_REGISTRY_PORT", "")
    settings = RegistrySettings()
    assert (settings.artifact_root, settings.port) == (None, 8002)
