"""Checkpoint folders: is everything there, and which weights exactly are they.

A folder is in Hugging Face format, on a disk or in an object store (``leyden_platform.objects``). Nothing
here needs torch or safetensors: a safetensors file begins with the length of a JSON header (8 bytes, little
endian) that says where each tensor lies, which is enough to see truncation.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol
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


class IncompleteArtifact(Exception):
    """A checkpoint folder cannot be served; the text names the file and what is wrong with it.

    ``reason`` is ``missing``, ``empty``, ``truncated`` or ``malformed``.
    """

    def __init__(self, reason: str, file: str, text: str) -> None:
        super().__init__(f"{file}: {text}")
        self.reason, self.file = reason, file


class UnsupportedArtifact(ValueError):
    """The artifact's URI is not one this release can read."""


class Files(Protocol):
    """The files of a checkpoint, wherever they lie."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""
        ...

    def begin(self, name: str, length: int | None = None) -> bytes:
        """Its first ``length`` bytes, or all of them."""
        ...


class Folder:
    """Files on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""
        file = self._path / name
        return file.stat().st_size if file.is_file() else None

    def begin(self, name: str, length: int | None = None) -> bytes:
        """Its first ``length`` bytes, or all of them. Raises ``OSError``."""
        with (self._path / name).open("rb") as stream:
            return stream.read(-1 if length is None else length)


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
    check_complete(Folder(path), kind)
    return artifact_digest(path)


def check_complete(files: Files, kind: WeightsKind = WeightsKind.FULL) -> None:
    """Refuse what cannot be served for want of a file or a part of one. Raises ``IncompleteArtifact``."""
    for name in _REQUIRED[kind]:
        _json_object(files, name)
    for name in _weight_files(files, _WEIGHTS[kind]):
        _verify_safetensors(files, name)


def artifact_digest(path: Path) -> str:
    """sha256 over the folder's ``sha256sum`` listing: a ``<sha256>  <relative path>`` line a file, sorted.

    Everything counts except ``trainer/``. The same as, inside the folder:
    ``find . -type f ! -path './trainer/*' -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum``
    """
    return listing_digest((name, file_digest(path / name)) for name in artifact_files(path))


def listing_digest(files: Iterable[tuple[str, str]]) -> str:
    """The digest of a folder with these files, each a relative path and its sha256."""
    served = sorted((name.encode(), sha256) for name, sha256 in files if not is_trainer_state(name))
    return hashlib.sha256(
        b"".join(sha256.encode() + b"  " + name + b"\n" for name, sha256 in served)
    ).hexdigest()


def is_trainer_state(name: str) -> bool:
    """Whether a file, by its path in the folder, is no part of what is served."""
    return name.split("/")[0] == TRAINER_STATE


def file_digest(file: Path) -> str:
    """sha256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tokenizer_digest(path: Path) -> str:
    """sha256 of ``tokenizer.json``; empty when the folder has none (an adapter)."""
    return text_digests(Folder(path))[0]


def chat_template_digest(path: Path) -> str:
    """sha256 of the chat template, from its own file or the tokenizer's configuration; empty without one."""
    return text_digests(Folder(path))[1]


def text_digests(files: Files) -> tuple[str, str]:
    """Those of tokenizer and chat template; see ``tokenizer_digest`` and ``chat_template_digest``."""

    def digest(name: str) -> str:
        return "" if files.size(name) is None else hashlib.sha256(files.begin(name)).hexdigest()

    template = digest("chat_template.jinja")
    if not template and files.size("tokenizer_config.json") is not None:
        inline = _json_object(files, "tokenizer_config.json").get("chat_template")
        template = hashlib.sha256(json.dumps(inline).encode()).hexdigest() if inline else ""
    return digest("tokenizer.json"), template


def artifact_files(path: Path, *, trainer: bool = False) -> Iterator[str]:
    """Relative paths of a folder's files; those of ``trainer/`` only when asked for."""
    for folder, _subfolders, files in os.walk(path):
        inside = Path(folder).relative_to(path)
        if trainer or inside.parts[:1] != (TRAINER_STATE,):
            yield from ((inside / file).as_posix() for file in files)


def _weight_files(files: Files, single: str) -> list[str]:
    """``single`` when it exists or there is no index, else the shards that the index names."""
    index = f"{single}.index.json"
    if files.size(single) is not None or files.size(index) is None:
        return [single]
    shards = _json_object(files, index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise IncompleteArtifact("malformed", index, "has no weight_map that names its shards")
    names = sorted({str(shard) for shard in shards.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise IncompleteArtifact("malformed", index, f"names a shard outside the folder: {outside[0]}")
    return names


def _require(files: Files, name: str) -> int:
    size = files.size(name)
    if size is None:
        raise IncompleteArtifact("missing", name, "the file is missing")
    if not size:
        raise IncompleteArtifact("empty", name, "the file is empty")
    return size


def _json_object(files: Files, name: str) -> dict[str, Any]:
    _require(files, name)
    try:
        value = json.loads(files.begin(name))
    except ValueError as error:
        raise IncompleteArtifact("malformed", name, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise IncompleteArtifact("malformed", name, "not a JSON object")
    return value


def _verify_safetensors(files: Files, name: str) -> None:
    """Header readable, and the file exactly as long as the tensors it lists."""
    size = _require(files, name)
    header_bytes = header_length(name, size, files.begin(name, 8))
    expected = 8 + header_bytes + _data_bytes(name, files.begin(name, 8 + header_bytes)[8:])
    if size < expected:
        raise IncompleteArtifact(
            "truncated", name, f"has {size} of the {expected} bytes its header describes"
        )
    if size > expected:
        raise IncompleteArtifact(
            "malformed", name, f"has {size - expected} bytes more than its header describes"
        )


def header_length(name: str, size: int, beginning: bytes) -> int:
    """Bytes of a safetensors file's JSON header, from its first eight. Raises ``IncompleteArtifact``."""
    header_bytes = int.from_bytes(beginning[:8], "little")
    if size < 8 or header_bytes > size - 8:
        raise IncompleteArtifact("truncated", name, f"ends after {size} bytes, inside its header")
    if header_bytes > _MAX_HEADER_BYTES:
        raise IncompleteArtifact("malformed", name, "not a safetensors file")
    return header_bytes


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
