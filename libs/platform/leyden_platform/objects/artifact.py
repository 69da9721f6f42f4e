"""An artifact in an object store: files under a prefix never used before, and last of all its manifest."""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from leyden_platform.artifacts import (
    IncompleteArtifact,
    artifact_files,
    check_complete,
    file_digest,
    header_length,
)
from leyden_platform.objects.folder import ObjectFolder
from leyden_platform.objects.manifest import MANIFEST, Manifest, ManifestFile
from leyden_schemas import WeightsKind

_WEIGHTS = ".safetensors"


async def upload_artifact(source: Path, target: ObjectFolder) -> Manifest:
    """Copy a folder, trainer state included, under a prefix; it is an artifact when this returns.

    Repeating it after a failure writes the same again. Raises ``StoreFailed`` and ``OSError``.
    """
    manifest = await asyncio.to_thread(_describe, source)
    await target.upload({file.name: source / file.name for file in manifest.files})
    await target.write(MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


async def read_manifest(source: ObjectFolder) -> Manifest:
    """What the artifact consists of. Raises ``IncompleteArtifact`` when it is none, and ``StoreFailed``."""
    try:
        return Manifest.model_validate_json(await source.read(MANIFEST))
    except FileNotFoundError:
        raise IncompleteArtifact(
            "missing", f"{source.url}/{MANIFEST}", "there is no such object, so nothing was uploaded whole"
        ) from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise IncompleteArtifact("malformed", MANIFEST, problem) from None


class RemoteFiles:
    """What ``check_complete`` needs to see of an artifact that lies elsewhere."""

    def __init__(self, sizes: Mapping[str, int], beginnings: Mapping[str, bytes]) -> None:
        self._sizes, self._beginnings = sizes, beginnings

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""
        return self._sizes.get(name)

    def begin(self, name: str, length: int | None = None) -> bytes:
        """Its first ``length`` bytes, or all of them; of weights there is no more than their header."""
        return self._beginnings[name][:length]


async def look_into(
    source: ObjectFolder, kind: WeightsKind = WeightsKind.FULL
) -> tuple[Manifest, RemoteFiles]:
    """A complete artifact's manifest and files, without reading its weights.

    What is served is as long as the manifest says, all but the weights are the bytes that it says, and the
    weights are as long as their headers say. Raises ``IncompleteArtifact`` and ``StoreFailed``.
    """
    manifest = await read_manifest(source)
    stored = {item.name: item.size for item in await source.objects()}
    served = [file for file in manifest.files if file.served]
    for file in served:
        _check_size(file, stored.get(file.name))
    beginnings = {file.name: await _beginning(source, file) for file in served}
    files = RemoteFiles({file.name: file.size for file in served}, beginnings)
    check_complete(files, kind)
    return manifest, files


def check_bytes(file: ManifestFile, sha256: str) -> None:
    """Refuse a file with another content than the manifest's. Raises ``IncompleteArtifact``."""
    if sha256 != file.sha256:
        raise IncompleteArtifact("digest", file.name, f"has sha256 {sha256}, its manifest says {file.sha256}")


async def _beginning(source: ObjectFolder, file: ManifestFile) -> bytes:
    if not file.name.endswith(_WEIGHTS):
        content = await source.read(file.name) if file.size else b""
        check_bytes(file, hashlib.sha256(content).hexdigest())
        return content
    beginning = await source.read(file.name, length=min(8, file.size)) if file.size else b""
    length = header_length(file.name, file.size, beginning)
    return beginning + await source.read(file.name, start=8, length=length) if length else beginning


def _check_size(file: ManifestFile, found: int | None) -> None:
    if found is None:
        raise IncompleteArtifact("missing", file.name, "the object is missing")
    if found != file.size:
        raise IncompleteArtifact("truncated", file.name, f"has {found} of {file.size} bytes")


def _describe(folder: Path) -> Manifest:
    return Manifest.of(
        [
            ManifestFile(name=name, size=(folder / name).stat().st_size, sha256=file_digest(folder / name))
            for name in sorted(artifact_files(folder, trainer=True))
        ]
    )
