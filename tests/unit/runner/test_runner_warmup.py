"""Warming the client libraries before forking."""

import sys

import openai
import pytest

from leyden_runner.executors.warmup import warm_up


def test_the_installed_client_can_be_warmed(capsys: pytest.CaptureFixture[str]) -> None:
    assert sys.modules["openai"] is openai
    warm_up()
    assert capsys.readouterr().err == ""


def test_a_library_that_cannot_be_warmed_stays_cold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openai", pytest)
    warm_up()
    assert "openai stays cold" in capsys.readouterr().err


def test_nothing_is_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openai")
    warm_up()
    assert "openai" not in sys.modules
