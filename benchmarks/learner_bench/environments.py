"""The environments of those we are compared with, under ``.bench/``, made with pip when first needed.

Torch is installed first and pinned as ours is, so that every subject computes with the same build.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway_bench.peers import CACHE, CannotInstall

ROOT = Path(__file__).parents[2]
_INSTALL_S = 1800.0


@dataclass(frozen=True, slots=True)
class Environment:
    """What to install under which name, and the pins it is held to."""

    name: str
    requirements: tuple[str, ...]
    constraints: str

    @property
    def python(self) -> Path:
        """Its interpreter, whether or not it is there."""
        return CACHE / self.name / "bin" / "python"


TRL = Environment("trl", ("trl==1.16.0",), "constraints.txt")
VERL = Environment("verl", ("--editable", f"{ROOT}[verl]"), "constraints-verl.txt")


def ensure(environment: Environment, *, install: bool) -> Path:
    """The environment's interpreter, made now if it is missing and ``install`` allows.

    Raises ``CannotInstall``.
    """
    folder = CACHE / environment.name
    stamp = folder / "installed.txt"
    wanted = " ".join(environment.requirements) + "\n" + (ROOT / environment.constraints).read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return environment.python
    if not install:
        raise CannotInstall(
            f"{environment.name} is not in {folder}; allow it with --peers {environment.name}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", folder], environment)
    pip: list[str | Path] = [
        environment.python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / environment.constraints,
    ]
    _run([*pip, "torch"], environment)
    _run([*pip, *environment.requirements], environment)
    stamp.write_text(wanted)
    return environment.python


def _run(command: list[str | Path], environment: Environment) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"{environment.name}: installing took longer than {_INSTALL_S:g} s") from None
    if done.returncode:
        raise CannotInstall(f"{environment.name} cannot be installed: {done.stderr.strip()[-500:]}")
