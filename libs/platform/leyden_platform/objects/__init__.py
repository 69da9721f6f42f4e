"""Checkpoints in an object store: uploaded whole, looked into from afar, fetched into a cache.

The only place that imports obstore, and the only one that talks to S3, Google Cloud Storage or Azure.
"""

from leyden_platform.objects.artifact import RemoteFiles, look_into, read_manifest, upload_artifact
from leyden_platform.objects.cache import ArtifactCache, fetch_whole
from leyden_platform.objects.errors import CacheTooSmall, StoreFailed, StoreTimedOut
from leyden_platform.objects.folder import ObjectFolder, Stored, is_object_url, object_url
from leyden_platform.objects.manifest import MANIFEST, Manifest, ManifestFile
from leyden_platform.objects.settings import ObjectSettings

__all__ = [
    "MANIFEST",
    "ArtifactCache",
    "CacheTooSmall",
    "Manifest",
    "ManifestFile",
    "ObjectFolder",
    "ObjectSettings",
    "RemoteFiles",
    "StoreFailed",
    "StoreTimedOut",
    "Stored",
    "fetch_whole",
    "is_object_url",
    "look_into",
    "object_url",
    "read_manifest",
    "upload_artifact",
]
