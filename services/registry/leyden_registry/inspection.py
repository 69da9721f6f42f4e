"""Verifying artifacts off the event loop, a few at a time, with a deadline.

Of an artifact in an object store all is read but the weights, of which lengths and headers are: who serves
them verifies every byte.
"""

import asyncio
from pathlib import Path

from leyden_platform.artifacts import (
    Folder,
    IncompleteArtifact,
    UnsupportedArtifact,
    artifact_path,
    text_digests,
    verify_artifact,
)
from leyden_platform.objects import (
    ObjectFolder,
    ObjectSettings,
    StoreFailed,
    StoreTimedOut,
    is_object_url,
    look_into,
    object_url,
)
from leyden_registry import metrics
from leyden_registry.errors import ArtifactRefused, ArtifactTimedOut
from leyden_registry.values import Artifact
from leyden_schemas import WeightsKind


class ArtifactInspector:
    """Reads artifacts below ``root`` and ``url``, or anywhere without either."""

    def __init__(
        self,
        root: Path | None,
        objects: ObjectSettings | None = None,
        *,
        url: str | None = None,
        timeout_s: float,
        concurrency: int,
    ) -> None:
        self._root = root.resolve() if root else None
        self._url = object_url(url) if url else None
        self._objects = objects or ObjectSettings()
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(concurrency)
        self._under_way: dict[tuple[str, WeightsKind], asyncio.Task[Artifact]] = {}

    async def inspect(self, uri: str, kind: WeightsKind) -> Artifact:
        """The digests of a complete artifact. Raises ``ArtifactRefused`` or ``ArtifactTimedOut``.

        A publisher that asks again before a large artifact is read gets the answer of the same reading.
        """
        key = uri, kind
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._inspect(uri, kind))
            task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    def _finished(self, key: tuple[str, WeightsKind], task: asyncio.Task[Artifact]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen, also when whoever asked has gone

    async def _inspect(self, uri: str, kind: WeightsKind) -> Artifact:
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                with metrics.ARTIFACT_SECONDS.time():
                    if is_object_url(uri):
                        return await self._look(uri, kind)
                    return await asyncio.to_thread(self._read, uri, kind)
        except IncompleteArtifact as error:
            raise _refused(error.reason, f"artifact {uri} is incomplete: {error}") from None
        except UnsupportedArtifact as error:
            raise _refused("unsupported", str(error)) from None
        except StoreTimedOut as error:
            raise ArtifactTimedOut(str(error)) from None
        except StoreFailed as error:
            raise ArtifactTimedOut(f"artifact {uri} could not be looked at: {error}") from None
        except TimeoutError:
            raise ArtifactTimedOut(
                f"artifact {uri} was not verified within {self._timeout_s:g} s "
                "(LEYDEN_REGISTRY_ARTIFACT_TIMEOUT_S)"
            ) from None
        except OSError as error:
            raise _refused("unreadable", f"artifact {uri} cannot be read: {error}") from None

    def _read(self, uri: str, kind: WeightsKind) -> Artifact:
        path = artifact_path(uri)
        self._check_place(uri, self._root is not None and path.resolve().is_relative_to(self._root))
        digest = verify_artifact(path, kind)
        return Artifact(uri, digest, *text_digests(Folder(path)))

    async def _look(self, uri: str, kind: WeightsKind) -> Artifact:
        source = ObjectFolder(uri, self._objects)
        self._check_place(uri, self._url is not None and source.url.startswith(f"{self._url}/"))
        manifest, files = await look_into(source, kind)
        return Artifact(source.url, manifest.digest, *text_digests(files))

    def _check_place(self, uri: str, inside: bool) -> None:
        """Once there is a place where artifacts are kept, they lie nowhere else."""
        places = " and ".join(str(place) for place in (self._root, self._url) if place)
        if places and not inside:
            raise UnsupportedArtifact(f"artifact {uri!r} lies outside {places}, where artifacts are kept")


def _refused(reason: str, text: str) -> ArtifactRefused:
    metrics.ARTIFACTS_REJECTED.labels(reason).inc()
    return ArtifactRefused(reason, text)
