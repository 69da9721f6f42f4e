"""``leyden replay``: options that cannot be meant are refused before anything is connected."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leyden.cli.__main__ import app
from leyden.cli.console import Failed

NOWHERE = ("--kafka", "127.0.0.1:1")


def run(*options: str) -> tuple[int, str]:
    """Exit status and what was printed, in one line."""
    result = CliRunner().invoke(app, ["replay", *options], env={"COLUMNS": "200"})
    if isinstance(result.exception, Failed):
        return 1, str(result.exception)
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("where", [NOWHERE, ()], ids=["a broker is named", "no stack runs"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "or give --dry-run"),
        (["--into", "a/b"], "a name begins with"),
        (["--dry-run", "--from", "yesterday"], "write a time with its zone"),
        (["--dry-run", "--to", "2026-11-01T00:00:00"], "add Z for UTC"),
        (["--dry-run", "--from", "-1h", "--to", "-2h"], "is not before"),
        (["--dry-run", "--lead-in", "soon"], "write a duration"),
        (["--dry-run", "--estimator", "groop"], "no estimator is named"),
        (["--dry-run", "--estimator", '{"name": "gigpo", "x": 1}'], "estimator gigpo"),
        (["--dry-run", "--estimator", '{"name": ["grpo"]}'], "no estimator is named ['grpo']"),
        (["--dry-run", "--estimator", '{"gamma": 0.5}'], "no estimator is named None"),
        (["--dry-run", "--estimator", "{"], "not JSON"),
        (["--dry-run", "--air-weights", "[]"], "write a JSON object"),
        (["--dry-run", "--air-weights", '{"nothing": 1}'], "nothing"),
        (["--dry-run", "--reward", "exact_mach"], "no reward is named"),
        (["--dry-run", "--reward", "numerc"], "no reward is named"),
        (["--dry-run", "--reward", "numeric", "--params", '{"tolerence": 1}'], "tolerance"),
        (["--dry-run", "--params", "{}"], "which is missing"),
        (["--dry-run", "--set", "AIR=1"], "write LEYDEN_NAME=VALUE"),
        (["--dry-run", "--set", "LEYDEN_REWARD_AIR_CAP=-1"], "LEYDEN_REWARD_AIR_CAP:"),
    ],
)
def test_options_that_cannot_be_meant(
    options: list[str], said: str, where: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEYDEN_KAFKA_BOOTSTRAP", raising=False)
    before = dict(os.environ)
    status, output = run(*options, *where)
    assert (status, said in output) == (2, True), output
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before


def test_a_broker_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, said = run("--dry-run", *NOWHERE)
    assert (status, "127.0.0.1:1" in said) == (1, True)


def test_without_a_broker_or_a_stack_it_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEYDEN_KAFKA_BOOTSTRAP", raising=False)
    status, said = run("--dry-run")
    assert (status, "give --kafka host:port" in said) == (1, True)
