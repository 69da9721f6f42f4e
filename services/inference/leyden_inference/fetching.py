"""Announced versions whose artifact lies in an object store, brought to this machine's disk."""

from leyden_inference.errors import LoadFailed
from leyden_inference.settings import InferenceSettings
from leyden_platform.artifacts import IncompleteArtifact, UnsupportedArtifact
from leyden_platform.objects import ArtifactCache, CacheTooSmall, StoreFailed, is_object_url
from leyden_schemas import ModelPublished


class Fetcher:
    """Fetches into a cache by content. What lies in a folder already is left where it is."""

    def __init__(self, cache: ArtifactCache) -> None:
        self._cache = cache

    async def local(self, message: ModelPublished) -> ModelPublished:
        """The announcement with its artifact as a folder of this machine, of exactly the bytes announced.

        Raises ``LoadFailed`` with reason store, timed_out, cache_full or unreadable, or what an incomplete
        artifact is refused for.
        """
        if not is_object_url(message.artifact):
            return message
        try:
            folder = await self._cache.folder(message.artifact, message.digest)
        except IncompleteArtifact as error:
            raise LoadFailed(error.reason, f"{message.artifact}: {error}") from None
        except UnsupportedArtifact as error:
            raise LoadFailed("unsupported", str(error)) from None
        except StoreFailed as error:
            raise LoadFailed("store" if error.reason == "failed" else error.reason, str(error)) from None
        except CacheTooSmall as error:
            raise LoadFailed("cache_full", f"{error} (LEYDEN_INFERENCE_CACHE_MAX_BYTES)") from None
        except OSError as error:
            raise LoadFailed("unreadable", f"cannot cache {message.artifact}: {error}") from None
        return message.model_copy(update={"artifact": folder.as_uri()})


def make_fetcher(settings: InferenceSettings) -> Fetcher:
    """Over the cache that the settings describe."""
    return Fetcher(ArtifactCache(settings.cache_dir, settings.objects, max_bytes=settings.cache_max_bytes))
