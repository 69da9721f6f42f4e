"""The gateways we are compared with, each in an environment of its own in ``.bench/``, made when needed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".bench"
_INSTALL_S = 900.0


class CannotInstall(Exception):
    """Why a peer cannot be measured here, and what to do about it."""


@dataclass(frozen=True, slots=True)
class PythonPeer:
    """A peer from PyPI: what to install, the oldest Python it takes, the program it is started with."""

    name: str
    requirement: str
    python: tuple[int, int]
    program: str

    @property
    def folder(self) -> Path:
        """Its environment."""
        return CACHE / self.name

    @property
    def executable(self) -> Path:
        """Its program, whether or not it is installed."""
        return self.folder / "bin" / self.program


LITELLM = PythonPeer("litellm", "litellm[proxy]==1.83.14", (3, 11), "litellm")
AGENT_LIGHTNING = PythonPeer("agentlightning", "agentlightning==1.0.2", (3, 12), "agl-server")


def nginx() -> Path:
    """The nginx on this machine. Raises ``CannotInstall``."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not found:
        raise CannotInstall(
            "nginx is not installed; on Debian: apt-get install --no-install-recommends nginx-light"
        )
    return Path(found)


def nginx_version() -> str:
    """``nginx/1.22.1``, or that there is none."""
    try:
        shown = subprocess.run([nginx(), "-v"], capture_output=True, text=True, timeout=10, check=False)
    except CannotInstall:
        return "no nginx"
    return shown.stderr.strip().rpartition(": ")[2]


def ensure(peer: PythonPeer, *, install: bool) -> Path:
    """The peer's program, installed now if it is missing and ``install`` allows. Raises ``CannotInstall``."""
    if _installed(peer):
        return peer.executable
    if not install:
        raise CannotInstall(f"{peer.requirement} is not in {peer.folder}; allow it with --peers {peer.name}")
    python = _python(peer)
    shutil.rmtree(peer.folder, ignore_errors=True)
    uv = _uv()
    _run([uv, "venv", "--quiet", "--python", python, peer.folder], peer)
    _run([uv, "pip", "install", "--quiet", "--python", peer.folder / "bin/python", peer.requirement], peer)
    _stamp(peer).write_text(peer.requirement)
    return peer.executable


def _stamp(peer: PythonPeer) -> Path:
    return peer.folder / "installed.txt"


def _installed(peer: PythonPeer) -> bool:
    stamp = _stamp(peer)
    return stamp.exists() and stamp.read_text() == peer.requirement and peer.executable.exists()


def _uv() -> Path:
    """uv, because pip backtracks without end through these dependencies."""
    if found := shutil.which("uv"):
        return Path(found)
    folder = CACHE / "uv"
    uv = folder / "bin" / "uv"
    if not uv.exists():
        _run([sys.executable, "-m", "venv", folder], None)
        _run([folder / "bin" / "pip", "install", "--quiet", "uv"], None)
    return uv


def _python(peer: PythonPeer) -> Path:
    """A Python that is new enough. Raises ``CannotInstall``."""
    for candidate in _pythons():
        if _version(candidate) >= peer.python:
            return candidate
    wanted = ".".join(map(str, peer.python))
    raise CannotInstall(
        f"{peer.requirement} needs Python {wanted} or newer; install one (python{wanted} in PATH)"
    )


def _pythons() -> Iterator[Path]:
    yield Path(sys.executable)
    for minor in range(12, 20):
        yield from (Path(found) for found in [shutil.which(f"python3.{minor}")] if found)
    yield from sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))


def _version(python: Path) -> tuple[int, int]:
    """(0, 0) for something that does not run, such as pyenv's place holders."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        shown = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=20, check=True)
        major, minor = shown.stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return (0, 0)
    return int(major), int(minor)


def _run(command: list[str | Path], peer: PythonPeer | None) -> None:
    what = peer.requirement if peer else "uv"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"{what}: installing took longer than {_INSTALL_S:g} s") from None
    if done.returncode:
        raise CannotInstall(f"{what} cannot be installed: {(done.stderr or done.stdout).strip()[-500:]}")
