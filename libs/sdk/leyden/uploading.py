"""A model folder put into an object store, so that a registry elsewhere can be told of it."""

import asyncio
from pathlib import Path

from leyden.registry import RegistryFailed
from leyden_platform.artifacts import IncompleteArtifact, UnsupportedArtifact, verify_artifact


def upload(policy: str, folder: Path, place: str) -> tuple[str, str]:
    """Upload below ``place``: the URL, which the content decides, and the digest; or ``RegistryFailed``."""
    try:
        from leyden_platform import objects
    except ImportError:
        raise RegistryFailed("uploading needs pip install 'leyden[objects]'") from None
    try:
        digest = verify_artifact(folder)
        target = objects.ObjectFolder(
            f"{objects.object_url(place)}/{policy}/imported/{digest[:16]}", objects.ObjectSettings()
        )
        asyncio.run(objects.upload_artifact(folder, target))
    except (IncompleteArtifact, UnsupportedArtifact, objects.StoreFailed, OSError) as error:
        raise RegistryFailed(f"{folder} was not uploaded to {place}: {error}") from error
    return target.url, digest
