"""Checkpoint folders: is everything there, and which weights exactly are they.

A folder is in Hugging Face format. Nothing here needs torch or safetensors: a safetensors file begins with
the length of a JSON header (8 bytes, little endian) that says where each tensor lies, which is enough to see
truncation.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from leyden_schemas import WeightsKind

TRAINER_STATE = "trainer"
"""Folder inside a checkpoint for optimizer state; not part of what is served, nor of the digest."""

_REQUIRED = {
    WeightsKind.FULL: ("config.json", "tokenizer.json", "tokenizer_config.json"),
    WeightsKind.LORA: ("adapter_config.json",),
}
_WEIGHTS = {WeightsKind.FULL: "model.safetensors", WeightsKind.LORA: "adapter_model.safetensors"}
_MAX_HEADER_BYTES = 100_000_000
_CHUNK_BYTES = 1 << 20


class IncompleteArtifact(Exception):
    """A checkpoint folder cannot be served; the text names the file and what is wrong with it.

    ``reason`` is ``missing``, ``empty``, ``truncated`` or ``malformed``.
    """

    def __init__(self, reason: str, file: str, text: str) -> None:
        super().__init__(f"{file}: {text}")
        self.reason, self.file = reason, file


class UnsupportedArtifact(ValueError):
    """The artifact's URI is not one this release can read."""


def artifact_path(uri: str) -> Path:
    """The local folder that ``file:///absolute/path`` names. Raises ``UnsupportedArtifact``."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise UnsupportedArtifact(f"artifact {uri!r} is not a URI: {error}") from None
    path = unquote(parts.path)
    local = parts.scheme == "file" and parts.netloc in ("", "localhost")
    if not local or not path.startswith("/") or "\0" in path:
        raise UnsupportedArtifact(f"artifact {uri!r}: write file:///absolute/path/to/the/folder")
    return Path(path)


def verify_artifact(path: Path, kind: WeightsKind = WeightsKind.FULL) -> str:
    """The digest of a complete checkpoint folder. Raises ``IncompleteArtifact``.

    Complete means that the configuration and tokenizer are JSON objects, and every safetensors file that the
    folder needs is as long as its header says. Reads all files once; call it in a thread.
    """
    if not path.is_dir():
        raise IncompleteArtifact("missing", str(path), "there is no such folder")
    for name in _REQUIRED[kind]:
        _json_object(path, name)
    for name in _weight_files(path, _WEIGHTS[kind]):
        _verify_safetensors(path, name)
    return artifact_digest(path)


def artifact_digest(path: Path) -> str:
    """sha256 over the folder's ``sha256sum`` listing: a ``<sha256>  <relative path>`` line a file, sorted.

    Everything counts except ``trainer/``. The same as, inside the folder:
    ``find . -type f ! -path './trainer/*' -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum``
    """
    listing = hashlib.sha256()
    for name in sorted(_served_files(path), key=str.encode):
        listing.update(f"{file_digest(path / name)}  {name}\n".encode())
    return listing.hexdigest()


def file_digest(file: Path) -> str:
    """sha256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tokenizer_digest(path: Path) -> str:
    """sha256 of ``tokenizer.json``; empty when the folder has none (an adapter)."""
    file = path / "tokenizer.json"
    return file_digest(file) if file.is_file() else ""


def chat_template_digest(path: Path) -> str:
    """sha256 of the chat template, from its own file or the tokenizer's configuration; empty without one."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file_digest(file)
    if not (path / "tokenizer_config.json").is_file():
        return ""
    template = _json_object(path, "tokenizer_config.json").get("chat_template")
    return hashlib.sha256(json.dumps(template).encode()).hexdigest() if template else ""


def _served_files(path: Path) -> Iterator[str]:
    for folder, _subfolders, files in os.walk(path):
        inside = Path(folder).relative_to(path)
        if inside.parts[:1] != (TRAINER_STATE,):
            yield from ((inside / file).as_posix() for file in files)


def _weight_files(path: Path, single: str) -> list[str]:
    """``single`` when it exists or there is no index, else the shards that the index names."""
    index = f"{single}.index.json"
    if (path / single).exists() or not (path / index).exists():
        return [single]
    shards = _json_object(path, index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise IncompleteArtifact("malformed", index, "has no weight_map that names its shards")
    names = sorted({str(shard) for shard in shards.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise IncompleteArtifact("malformed", index, f"names a shard outside the folder: {outside[0]}")
    return names


def _require(path: Path, name: str) -> Path:
    file = path / name
    if not file.is_file():
        raise IncompleteArtifact("missing", name, "the file is missing")
    if not file.stat().st_size:
        raise IncompleteArtifact("empty", name, "the file is empty")
    return file


def _json_object(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(_require(path, name).read_bytes())
    except ValueError as error:
        raise IncompleteArtifact("malformed", name, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise IncompleteArtifact("malformed", name, "not a JSON object")
    return value


def _verify_safetensors(path: Path, name: str) -> None:
    """Header readable, and the file exactly as long as the tensors it lists."""
    file = _require(path, name)
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if size < 8 or header_bytes > size - 8:
            raise IncompleteArtifact("truncated", name, f"ends after {size} bytes, inside its header")
        if header_bytes > _MAX_HEADER_BYTES:
            raise IncompleteArtifact("malformed", name, "not a safetensors file")
        expected = 8 + header_bytes + _data_bytes(name, stream.read(header_bytes))
    if size < expected:
        raise IncompleteArtifact(
            "truncated", name, f"has {size} of the {expected} bytes its header describes"
        )
    if size > expected:
        raise IncompleteArtifact(
            "malformed", name, f"has {size - expected} bytes more than its header describes"
        )


def _data_bytes(name: str, header: bytes) -> int:
    """Length of the tensor data; tensors lie end to end in any order."""
    try:
        tensors = json.loads(header)
        named = (entry for key, entry in tensors.items() if key != "__metadata__")
        spans = sorted((int(start), int(stop)) for start, stop in (entry["data_offsets"] for entry in named))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IncompleteArtifact(
            "malformed", name, f"its header is not a safetensors header: {error}"
        ) from None
    if not spans:
        raise IncompleteArtifact("empty", name, "holds no tensors")
    end = 0
    for start, stop in spans:
        if start != end or stop < start:
            raise IncompleteArtifact("malformed", name, f"tensor data has a gap or overlap at byte {end}")
        end = stop
    return end
