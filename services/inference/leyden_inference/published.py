"""From an announcement to a verified folder: whatever the engine, nothing else is loaded."""

from pathlib import Path

from leyden_inference.errors import LoadFailed
from leyden_platform.artifacts import (
    IncompleteArtifact,
    UnsupportedArtifact,
    artifact_path,
    verify_artifact,
)
from leyden_platform.probe import Probe, read_probe
from leyden_schemas import ModelPublished, WeightsKind


def published_path(message: ModelPublished) -> Path:
    """Where an announced version lies. Raises ``LoadFailed`` with reason unsupported."""
    try:
        return artifact_path(message.artifact)
    except UnsupportedArtifact as error:
        raise LoadFailed("unsupported", str(error)) from None


def verified(folder: Path, digest: str | None, kind: WeightsKind = WeightsKind.FULL) -> Probe | None:
    """The probe, if any, of a folder that is whole and has this digest, if one is given. Call it in a thread.

    Raises ``LoadFailed`` with reason missing, empty, truncated, malformed, digest or unreadable.
    """
    try:
        found = verify_artifact(folder, kind)
        if digest and found != digest:
            raise LoadFailed("digest", f"{folder} has digest {found}, the registry announced {digest}")
        return read_probe(folder)
    except IncompleteArtifact as error:
        raise LoadFailed(error.reason, f"{folder}: {error}") from None
    except OSError as error:
        raise LoadFailed("unreadable", f"{folder}: {error}") from None
