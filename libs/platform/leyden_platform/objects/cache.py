"""Artifacts as folders on this machine's disk: where they lie, or fetched into a cache by content.

A folder appears in the cache under its digest when every byte of it was verified. What was used longest ago
makes room.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import structlog

from leyden_platform.artifacts import (
    IncompleteArtifact,
    artifact_digest,
    artifact_files,
    artifact_path,
    file_digest,
)
from leyden_platform.objects import metrics
from leyden_platform.objects.artifact import check_bytes, read_manifest
from leyden_platform.objects.errors import CacheTooSmall
from leyden_platform.objects.folder import ObjectFolder, is_object_url
from leyden_platform.objects.manifest import Manifest, ManifestFile
from leyden_platform.objects.settings import ObjectSettings

log = structlog.get_logger(__name__)

_FETCHING = ".fetching-"


class ArtifactCache:
    """Folders below ``root``, ``max_bytes`` of them at most; 0 is without bound."""

    def __init__(self, root: Path, settings: ObjectSettings, *, max_bytes: int = 0) -> None:
        self._root, self._settings, self._max_bytes = root.absolute(), settings, max_bytes
        self._one_at_a_time = asyncio.Lock()

    async def folder(self, uri: str, digest: str | None = None) -> Path:
        """A folder with the artifact's files, without trainer state; the folder itself for ``file:///…``.

        What came from a store is complete and has the digest, if one is given. Raises
        ``UnsupportedArtifact``, ``IncompleteArtifact`` (reason ``digest`` for other bytes), ``StoreFailed``,
        and ``OSError``, of which ``CacheTooSmall`` is one.
        """
        if not is_object_url(uri):
            return artifact_path(uri)
        source = ObjectFolder(uri, self._settings)
        async with self._one_at_a_time:
            if digest is not None and await asyncio.to_thread(self._has, digest):
                metrics.CACHE.labels("hit").inc()
                return self._root / digest
            return await self._fetch(source, digest)

    async def _fetch(self, source: ObjectFolder, digest: str | None) -> Path:
        manifest = await read_manifest(source)
        if digest not in (None, manifest.digest):
            raise IncompleteArtifact(
                "digest", source.url, f"holds digest {manifest.digest}, announced was {digest}"
            )
        files = [file for file in manifest.files if file.served]
        await asyncio.to_thread(self._make_room, sum(file.size for file in files))
        began, temporary = time.monotonic(), self._root / f"{_FETCHING}{uuid4().hex}"
        try:
            temporary.mkdir()
            await fetch_files(source, files, temporary)
            final = await asyncio.to_thread(_put_in_place, temporary, self._root / manifest.digest)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        metrics.CACHE.labels("fetched").inc()
        log.info("artifact_fetched", url=source.url, seconds=round(time.monotonic() - began, 3))
        return final

    def _has(self, digest: str) -> bool:
        """Whether the folder is there and still the same bytes; a spoiled one is removed."""
        folder = self._root / digest
        if not folder.is_dir():
            return False
        if artifact_digest(folder) == digest:
            os.utime(folder)
            return True
        log.error("cached_artifact_spoiled", folder=str(folder), remedy="it is fetched again; check the disk")
        _remove(folder)
        return False

    def _make_room(self, needed: int) -> None:
        """Remove what was left by a crash and what was used longest ago. Raises ``CacheTooSmall``."""
        self._root.mkdir(parents=True, exist_ok=True)
        if self._max_bytes and needed > self._max_bytes:
            raise CacheTooSmall(
                f"the artifact has {needed} bytes, its cache {self._root} may have {self._max_bytes}: "
                "allow more"
            )
        abandoned = time.time() - 2 * self._settings.transfer_timeout_s
        folders = [entry for entry in self._root.iterdir() if entry.is_dir()]
        for folder in folders:
            if folder.name.startswith(".") and folder.stat().st_mtime < abandoned:
                shutil.rmtree(folder, ignore_errors=True)
        kept = sorted((f for f in folders if not f.name.startswith(".")), key=lambda f: f.stat().st_mtime)
        sizes = {folder: _bytes_of(folder) for folder in kept}
        while self._max_bytes and sum(sizes.values()) + needed > self._max_bytes:
            oldest = kept.pop(0)
            del sizes[oldest]
            _remove(oldest)
            metrics.CACHE.labels("evicted").inc()


async def fetch_files(source: ObjectFolder, files: list[ManifestFile], folder: Path) -> None:
    """Download files and verify each. Raises ``IncompleteArtifact``, ``StoreFailed`` and ``OSError``."""
    try:
        await source.download({file.name: file.size for file in files}, folder)
    except FileNotFoundError as error:
        raise IncompleteArtifact("missing", source.url, f"an object is missing: {error}") from None
    for file in files:
        check_bytes(file, await asyncio.to_thread(file_digest, folder / file.name))


async def fetch_whole(source: ObjectFolder, folder: Path, keep: Callable[[Manifest], None]) -> None:
    """Make ``folder`` the artifact with its trainer state; files that are there already are not fetched.

    ``keep`` is shown the manifest first. Raises what ``fetch_files`` does.
    """
    manifest = await read_manifest(source)
    keep(manifest)
    await fetch_files(source, await asyncio.to_thread(_lacking, manifest, folder), folder)


def _lacking(manifest: Manifest, folder: Path) -> list[ManifestFile]:
    folder.mkdir(parents=True, exist_ok=True)
    return [file for file in manifest.files if not _same(folder / file.name, file)]


def _same(path: Path, file: ManifestFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and file_digest(path) == file.sha256


def _put_in_place(temporary: Path, final: Path) -> Path:
    """Under its name at once; what another process put there meanwhile is the same."""
    if not final.is_dir():
        temporary.rename(final)
    return final


def _remove(folder: Path) -> None:
    """Gone from its name at once, then from the disk."""
    shutil.rmtree(folder.rename(folder.with_name(f"{_FETCHING}{uuid4().hex}")), ignore_errors=True)


def _bytes_of(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in artifact_files(folder, trainer=True))
