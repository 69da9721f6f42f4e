"""The command line: help worth reading, and errors that are one sentence with a remedy."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from leyden.cli.__main__ import main
from leyden_local.state import Endpoints, Phase, StackFolder, StackState

COMMANDS = [
    "",
    "up",
    "status",
    "logs",
    "down",
    "demo",
    "submit",
    "replay",
    "topics",
    "topics create",
    "models",
    "models import",
    "models list",
    "feedback",
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
        (["demo", "--model", "gpt"], 2, "'gpt' is not one of 'seed',"),
        (["demo", "--heldout", "5001"], 1, "at most 5000 held-out tasks"),
        (["up", "--model", "nowhere", "--agent", "default=a:b"], 1, "nowhere is not a folder"),
        (["up", "--policy", "mine"], 1, "--policy, --reward and --path go with --model or --agent"),
        (["up", "--reward", "mine=a:b"], 1, "--policy, --reward and --path go with --model or --agent"),
        (["status", "--dir", "stdin"], 2, "is a file"),
        (["submit", "stdin", "--dir", "stdin"], 2, "is a file"),
        (["submit", "stdin", "--queue", "a b"], 2, "a queue's name has letters, digits"),
        (["topics", "create", "--queue", "a/b"], 2, "a queue's name has letters, digits"),
        (["feedback", "--session", "a"], 1, "or give --gateway URL"),
        (
            ["feedback", "--session", "a", "--gateway", "http://127.0.0.1:1"],
            1,
            "--api-key, or LEYDEN_API_KEY",
        ),
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


def test_the_version_is_that_of_the_package(leyden: Leyden) -> None:
    assert leyden("--version").out.strip() == version("leyden")


@pytest.mark.parametrize("command", ["submit stdin", "topics create", "replay --dry-run"])
def test_a_bad_variable_is_told_by_its_name(
    command: str, leyden: Leyden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_KAFKA_SECURITY_PROTOCOL", "TLS")
    result = leyden(*command.split(), stdin=TASK_LINE)
    assert (result.status, "Traceback" in result.err) == (1, False)
    assert "LEYDEN_KAFKA_SECURITY_PROTOCOL: Input should be 'PLAINTEXT'," in result.err


def test_settings_of_the_shell_that_a_stack_does_not_see_are_named(
    leyden: Leyden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_GATEWAY_API_KEYS", "{}")
    monkeypatch.setenv("LEYDEN_GATEWAY_URL", "http://127.0.0.1:1")
    result = leyden("up", "--model", "nowhere")
    assert "not handed to the services: LEYDEN_GATEWAY_API_KEYS; give them with --set" in result.err


def test_submit_refuses_what_is_not_text(leyden: Leyden, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_bytes(b"\xff\xfe")
    result = leyden("submit", "tasks.jsonl", "--kafka", "127.0.0.1:1")
    assert (result.status, "tasks.jsonl is not UTF-8" in result.err) == (1, True)


def test_status_is_told_to_scripts_too(leyden: Leyden) -> None:
    result = leyden("status", "--json")
    assert json.loads(result.out) == {"phase": "stopped", "processes": {}, "endpoints": {}}
    assert result.status == 3


def test_submit_refuses_an_empty_file(leyden: Leyden) -> None:
    result = leyden("submit", "-", "--kafka", "127.0.0.1:1")
    assert (result.status, "holds no tasks" in result.err) == (1, True)


BARE = """
import sys
for name in ("aiokafka", "faststream", "sortedcontainers", "psutil", "filelock", "torch", "sqlalchemy"):
    sys.modules[name] = None
from leyden.cli.__main__ import main
sys.argv[0] = "leyden"
main()
"""
TASK_LINE = '{"input": {}, "policy": "calculator"}'


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "Usage:"),
        (["submit", "--help"], 0, "Usage:"),
        (["topics", "list"], 0, "leyden.tasks.v1"),
        (["topics", "create"], 1, "pip install 'leyden[messaging]'"),
        (["submit", "-", "--kafka", "127.0.0.1:1"], 1, "pip install 'leyden[messaging]'"),
        (["up"], 1, "pip install 'leyden[local]'"),
    ],
)
def test_a_bare_installation_names_the_extra(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    """``pip install leyden`` alone: what the extras bring is hidden from a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", BARE, *arguments],
        cwd=tmp_path,
        input=TASK_LINE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = " ".join((result.stdout + result.stderr).split())
    assert said in output
    assert result.returncode == status
    assert "Traceback" not in output


def stack_folder(directory: Path) -> StackFolder:
    folder = StackFolder(directory)
    folder.create()
    folder.config.write_text("{}")
    return folder


def test_status_says_why_the_last_stack_failed(leyden: Leyden, tmp_path: Path) -> None:
    nowhere = Endpoints(kafka="", database="", gateway="", registry="", inference="")
    stack_folder(tmp_path / ".leyden").write(
        StackState(pid=2**22 + 1, created=0, phase=Phase.FAILED, error="kafka [1] died", endpoints=nowhere)
    )
    result = leyden("status")
    assert result.status == 3
    assert "The last one failed: kafka [1] died" in result.out


def test_down_removes_a_stack_and_nothing_else(leyden: Leyden, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    refused = leyden("down", "--remove", "--dir", "home")
    assert (refused.status, "home holds no stack.json" in refused.err) == (1, True)
    assert (tmp_path / "home").is_dir()
    stack_folder(tmp_path / ".leyden")
    assert leyden("down", "--remove").status == 0
    assert not (tmp_path / ".leyden").exists()
    assert leyden("down", "--remove").status == 0, "safe to repeat"


def test_the_shell_completes() -> None:
    command = [sys.executable, "-m", "leyden.cli", "--show-completion", "bash"]
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=named)
    assert result.returncode == 0
    assert "complete" in result.stdout
