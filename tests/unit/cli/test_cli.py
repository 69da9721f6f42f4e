"""The command line: help worth reading, and errors that are one sentence with a remedy."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from leyden.cli.__main__ import main

COMMANDS = [
    "",
    "up",
    "status",
    "logs",
    "down",
    "demo",
    "submit",
    "topics",
    "topics create",
    "models",
    "models import",
]


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


Leyden = Callable[..., Result]


@pytest.fixture
def leyden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Leyden:
    """Run the command line in an empty folder, as a user's shell would."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["leyden", *arguments])
        (tmp_path / "stdin").write_text(stdin)
        with (tmp_path / "stdin").open() as given:
            monkeypatch.setattr(sys, "stdin", given)
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        printed = capsys.readouterr()
        return Result(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, leyden: Leyden) -> None:
    result = leyden(*command.split(), "--help")
    assert result.status == 0
    assert "Usage:" in result.out
    assert len(result.out.splitlines()) > 5


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["status"], 3, "No stack runs in .leyden"),
        (["down"], 0, "No stack runs in .leyden"),
        (["logs", "gateway"], 1, "no log of gateway"),
        (["demo", "--examples", "."], 1, "run the demo in a clone of the repository"),
        (["up", "--model", "nowhere", "--agent", "default=a:b"], 1, "nowhere is not a folder"),
        (["up", "--model", ".", "--agent", "default"], 1, "write --agent NAME=package.module:function"),
        (["topics", "create", "--kafka", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (["models", "list", "calculator", "--registry", "http://127.0.0.1:1"], 1, "did not answer"),
        (["models", "list", "calculator"], 1, "no stack runs in .leyden"),
        (["submit", "missing.jsonl"], 2, "missing.jsonl"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_plain(arguments: list[str], status: int, said: str, leyden: Leyden) -> None:
    result = leyden(*arguments)
    output = " ".join((result.out + result.err).split())
    assert said in output
    assert result.status == status
    assert "Traceback" not in output


def test_submit_checks_every_line_before_publishing(leyden: Leyden) -> None:
    lines = [
        '{"input": {}, "policy": "calculator"}',
        '{"input": {}, "policy": "calculator", "samples": 0}',
        "not json",
        '{"input": {}, "policy": "calculator", "colour": "red"}',
    ]
    result = leyden("submit", "-", "--kafka", "127.0.0.1:1", stdin="\n".join(lines))
    assert result.status == 1
    for said in (
        "line 2: samples",
        "line 3: message: Invalid JSON",
        "line 4: colour: Extra inputs",
        "nothing was published",
    ):
        assert said in result.err


def test_submit_refuses_an_empty_file(leyden: Leyden) -> None:
    result = leyden("submit", "-", "--kafka", "127.0.0.1:1")
    assert (result.status, "holds no tasks" in result.err) == (1, True)


def test_the_shell_completes() -> None:
    command = [sys.executable, "-m", "leyden.cli", "--show-completion", "bash"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert "complete" in result.stdout
