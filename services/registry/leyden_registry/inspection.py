"""Verifying artifacts off the event loop, a few at a time, with a deadline."""

import asyncio
from pathlib import Path

from leyden_platform.artifacts import (
    IncompleteArtifact,
    UnsupportedArtifact,
    artifact_path,
    chat_template_digest,
    tokenizer_digest,
    verify_artifact,
)
from leyden_registry import metrics
from leyden_registry.errors import ArtifactRefused, ArtifactTimedOut
from leyden_registry.values import Artifact
from leyden_schemas import WeightsKind


class ArtifactInspector:
    """Reads artifacts below ``root``, or anywhere without one."""

    def __init__(self, root: Path | None, *, timeout_s: float, concurrency: int) -> None:
        self._root = root.resolve() if root else None
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(concurrency)

    async def inspect(self, uri: str, kind: WeightsKind) -> Artifact:
        """The digests of a complete artifact. Raises ``ArtifactRefused`` or ``ArtifactTimedOut``."""
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                with metrics.ARTIFACT_SECONDS.time():
                    return await asyncio.to_thread(self._read, uri, kind)
        except IncompleteArtifact as error:
            raise _refused(error.reason, f"artifact {uri} is incomplete: {error}") from None
        except UnsupportedArtifact as error:
            raise _refused("unsupported", str(error)) from None
        except TimeoutError:
            raise ArtifactTimedOut(
                f"artifact {uri} was not verified within {self._timeout_s:g} s "
                "(LEYDEN_REGISTRY_ARTIFACT_TIMEOUT_S)"
            ) from None
        except OSError as error:
            raise _refused("unreadable", f"artifact {uri} cannot be read: {error}") from None

    def _read(self, uri: str, kind: WeightsKind) -> Artifact:
        path = artifact_path(uri)
        if self._root and not path.resolve().is_relative_to(self._root):
            raise UnsupportedArtifact(f"artifact {uri!r} lies outside {self._root}, where artifacts are kept")
        digest = verify_artifact(path, kind)
        return Artifact(uri, digest, tokenizer_digest(path), chat_template_digest(path))


def _refused(reason: str, text: str) -> ArtifactRefused:
    metrics.ARTIFACTS_REJECTED.labels(reason).inc()
    return ArtifactRefused(reason, text)
