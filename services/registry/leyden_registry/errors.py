"""Why the registry refuses a request; the API turns each into a status."""


class RegistryError(Exception):
    """Base of the registry's refusals."""


class NotFound(RegistryError):
    """The policy, version or alias does not exist."""


class Conflict(RegistryError):
    """The request contradicts what is already recorded."""


class InUse(RegistryError):
    """The version is served, pinned or needed otherwise, so its weights stay; ``reason`` says by what."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Retired(RegistryError):
    """The version's weights may be gone, so nothing may be made to serve it."""


class InvalidReference(RegistryError):
    """The request names something that does not exist, for example a parent version."""


class InvalidWeight(RegistryError):
    """The share of traffic cannot be given to this alias."""


class ArtifactRefused(RegistryError):
    """The artifact cannot be served or read; ``reason`` is a metric label."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ArtifactTimedOut(RegistryError):
    """Reading the artifact took longer than allowed."""
